"""`rlaif data …`: public data sets as files that the trainers read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import OutFile, output

app = typer.Typer(help="Data sets of others as our records.", no_args_is_help=True)


class RecordKind(StrEnum):
    """The values of --to."""

    preferences = "preferences"
    lessons = "lessons"


@app.callback()
def _group() -> None:
    """Keeps `convert` a subcommand while it is the only one."""


@app.command(
    epilog="Example: rlaif data convert nectar.parquet --out pairs.parquet; docs/data.md lists the "
    "formats."
)
def convert(
    file: Annotated[
        Path, typer.Argument(help="JSONL (also .gz), a JSON array, or Parquet.", metavar="FILE")
    ],
    out: OutFile,
    source: Annotated[
        str,
        typer.Option(
            "--from", help="The format's name; auto recognizes it by the columns.", metavar="NAME"
        ),
    ] = "auto",
    to: Annotated[
        RecordKind,
        typer.Option(help="Pairs to compare, or responses to imitate where a set has both."),
    ] = RecordKind.preferences,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print counts and three records, and write nothing.")
    ] = False,
) -> None:
    """Convert a public data set to preferences, or to responses to imitate.

    OUT is Parquet or JSONL by its ending, and appears when it is complete.
    """
    from rlaif.data.convert import convert as convert_file

    done = convert_file(file, out, format=source, kind=to.value, dry_run=dry_run)
    console = output()
    if dry_run:
        for record in done.first:
            console.print(record.model_dump_json(indent=2), highlight=False, markup=False)
    line = done.notes.line() or f"{file}: {done.notes.records} records ({done.format})"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    outcome = f"{done.notes.records} records {'would be written' if dry_run else 'written'}"
    console.print(f"{out}: {outcome}", highlight=False, markup=False, soft_wrap=True)
