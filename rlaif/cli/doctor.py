"""`rlaif doctor`: whether this machine and installation can run the demo, and what it will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.options import AsJson, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from rlaif.cli.checks import Check

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the digests of fetched models, too; reads all their bytes."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine and installation, and say what the demo will take here.

    Each line is ok, a warning, or a problem: something without which `rlaif run quickstart` cannot
    run. Exits with 1 if there is a problem.
    """
    import json
    from dataclasses import asdict

    from rlaif.cli.checks import Status, examine

    checks = examine(verify)
    can_run = all(check.status is not Status.PROBLEM for check in checks)
    if as_json:
        report = {"demo_can_run": can_run, "checks": [asdict(check) for check in checks]}
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_checks(checks, output())
    if not can_run:
        raise typer.Exit(1)


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """A line per check, with its remedy below."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        status = Text(check.status.value, _STYLES[check.status.value])
        found = Text(check.found)
        if check.remedy:
            found.append(f"\n→ {check.remedy}", "dim" if check.status == "ok" else "bold")
        table.add_row(status, Text(check.name), found)
    console.print(table)
