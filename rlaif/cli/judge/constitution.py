"""`rlaif constitution …`: read and check constitution files."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from rlaif.cli.judge import constitution_tools as workshop
from rlaif.cli.options import AsJson, output

app = typer.Typer(help="Read, check, test and edit constitutions.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name of a shipped constitution, or a YAML file.")]


@app.command(epilog="Example: rlaif constitution show customer_support")
def show(
    name: Annotated[str, typer.Argument(help="Name or file; none lists them.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print a constitution as the judge will read it, or list the ones that ship."""
    from rich.table import Table

    from constitution import Constitution

    out = output()
    if not name:
        for known in Constitution.library_names():
            found = Constitution.load(known)
            out.print(f"[bold]{known}[/bold] {found.version}  {found.description.strip()}")
        return
    law = Constitution.load(name)
    if as_json:
        print(json.dumps({"digest": law.digest, **law.model_dump(mode="json")}, ensure_ascii=False))
        return
    out.print(f"[bold]{law.name}[/bold] {law.version}  sha256 {law.digest[:16]}")
    out.print(law.description.strip(), markup=False)
    table = Table("principle", "trait", "weight", "the judge is told", "examples")
    for principle in law.principles:
        table.add_row(
            principle.id,
            principle.trait,
            f"{principle.weight * law.trait_weights[principle.trait]:g}",
            principle.compare.strip(),
            str(len(principle.examples)),
        )
    out.print(table)


class LintFormat(StrEnum):
    """How `lint` prints its findings."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


@app.command(epilog="Example: rlaif constitution lint my_rules.yaml")
def lint(
    names: Annotated[
        list[str], typer.Argument(help="Names of shipped constitutions, or YAML files.")
    ],
    form: Annotated[
        LintFormat, typer.Option("--format", help="github: annotations of a workflow's checks.")
    ] = LintFormat.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
) -> None:
    """Say what a careful editor would: errors, warnings and advice, each with its remedy.

    Exits with 1 on errors only; every rule is in docs/constitution.md.
    """
    from constitution.lint import Severity
    from constitution.lint import lint as find
    from constitution.lint import report as lint_report

    found = {name: find(name) for name in names}
    findings = [finding for told in found.values() for finding in told]
    if as_json or form is LintFormat.JSON:
        print(lint_report.as_json(findings))
    elif form is LintFormat.TEXT:
        for name, told in found.items():
            print(lint_report.as_text(name, told))
    elif findings:
        print(lint_report.as_github(findings))
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing for finding in findings):
        raise typer.Exit(1)


app.command("test", epilog="Example: rlaif constitution test my_rules.yaml --watch")(workshop.check)
app.command(
    epilog="Example: rlaif constitution diff old.yaml new.yaml --labels labels/preferences.parquet"
)(workshop.diff)
app.command(
    epilog="Example: rlaif constitution ablate my_rules.yaml --labels labels/preferences.parquet "
    "--gold pairs.jsonl --out ablation"
)(workshop.ablate)
app.command("try", epilog="Example: rlaif constitution try my_rules.yaml")(workshop.try_)
