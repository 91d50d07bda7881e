"""`rlaif constitution …`: read and check constitution files."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rlaif.commands import AsJson, output

app = typer.Typer(help="Read and check constitutions.", no_args_is_help=True)

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


@app.command(epilog="Example: rlaif constitution lint my_rules.yaml")
def lint(name: Name, as_json: AsJson = False) -> None:
    """Say what a careful editor would: errors and warnings, each with its remedy."""
    from dataclasses import asdict

    from constitution.lint import lint as find

    findings = find(name)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(finding)
        print(f"{name}: {len(findings)} finding{'s' * (len(findings) != 1)}")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)
