"""`rlaif constitution show | lint`: display and check constitutions."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from rlaif.cli.judge import constitution_tools
from rlaif.cli.options import AsJson, output

app = typer.Typer(help="Show, check, test and edit constitutions.", no_args_is_help=True)


@app.command(epilog="Example: rlaif constitution show customer_support")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped constitution, or a YAML file; default: list the shipped ones."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print a constitution as the judge reads it, or list the shipped ones."""
    from rich.table import Table

    from constitution import Constitution

    out = output()
    if not name:
        for shipped in map(Constitution.load, Constitution.library_names()):
            out.print(f"[bold]{shipped.name}[/bold] {shipped.version}  {shipped.description}")
        return
    constitution = Constitution.load(name)
    if as_json:
        fields = {"digest": constitution.digest, **constitution.model_dump(mode="json")}
        print(json.dumps(fields, ensure_ascii=False))
        return
    digest = constitution.digest[:16]
    out.print(f"[bold]{constitution.name}[/bold] {constitution.version}  sha256 {digest}")
    out.print(constitution.description, markup=False)
    table = Table("principle", "trait", "weight", "text for the judge", "examples")
    for principle in constitution.principles:
        table.add_row(
            principle.id,
            principle.trait,
            f"{principle.weight * constitution.trait_weights[principle.trait]:g}",
            principle.compare,
            str(len(principle.examples)),
        )
    out.print(table)


class LintFormat(StrEnum):
    """The output format of `lint`."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


@app.command("lint", epilog="Example: rlaif constitution lint my_rules.yaml")
def lint_all(
    names: Annotated[
        list[str], typer.Argument(help="Names of shipped constitutions, or YAML files.")
    ],
    form: Annotated[
        LintFormat, typer.Option("--format", help="github: annotations for a workflow.")
    ] = LintFormat.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
) -> None:
    """Report errors, warnings and advice, each with its remedy.

    Exits with 1 on errors only; docs/constitution.md lists all rules.
    """
    from constitution.lint import Severity, lint, report

    by_name = {name: lint(name) for name in names}
    findings = [finding for group in by_name.values() for finding in group]
    if as_json or form is LintFormat.JSON:
        print(report.as_json(findings))
    elif form is LintFormat.TEXT:
        for name, group in by_name.items():
            print(report.as_text(name, group))
    elif findings:
        print(report.as_github(findings))
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing for finding in findings):
        raise typer.Exit(1)


app.command("test", epilog="Example: rlaif constitution test my_rules.yaml --watch")(
    constitution_tools.run_examples
)
app.command(
    epilog="Example: rlaif constitution diff old.yaml new.yaml --labels labels/preferences.parquet"
)(constitution_tools.diff)
app.command(
    epilog="Example: rlaif constitution ablate my_rules.yaml --labels labels/preferences.parquet "
    "--gold pairs.jsonl --out ablation"
)(constitution_tools.ablate)
app.command("try", epilog="Example: rlaif constitution try my_rules.yaml")(constitution_tools.try_)
