"""`rlaif shards …`: folders of shards, for data sets of any size and work that many share."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constitution.errors import UserError
from rlaif.cli.options import AsJson, OutFolder, output

if TYPE_CHECKING:
    from rlaif.distributed.fleet import RayFleet
    from rlaif.sharding.run import ShardsReport

app = typer.Typer(help="Data sets as folders of shards.", no_args_is_help=True)

PartOption = Annotated[
    str,
    typer.Option(
        "--part",
        help="With a folder of shards: only this process's share of them, counted from 0, as 3/64 "
        "or $SLURM_ARRAY_TASK_ID/64.",
        metavar="I/N",
    ),
]


RayOption = Annotated[
    str,
    typer.Option(
        "--ray",
        help="With a folder of shards: make them on a Ray cluster: its ADDRESS, auto (the one this "
        "host belongs to), or local (this host alone).",
        metavar="ADDRESS",
    ),
]
GpusOption = Annotated[
    float | None, typer.Option(min=0, help="With --ray: GPUs of a worker; default: 0.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="With --ray: workers; default: all that fit, without GPUs one a node."
    ),
]


def fleet_of(ray: str, gpus: float | None, workers: int | None) -> RayFleet | None:
    """Where a command's shards are made. Raises UserError for options without --ray."""
    from rlaif.distributed.fleet import RayFleet

    if ray:
        return RayFleet(ray, gpus or 0, workers)
    if gpus is not None or workers is not None:
        raise UserError("--gpus and --workers need --ray ADDRESS, auto or local")
    return None


class RowKind(StrEnum):
    """The values of --holds."""

    prompts = "prompts"
    samples = "samples"
    preferences = "preferences"


@app.command(epilog="Example: rlaif shards split prompts.jsonl --rows 2000 --out prompts")
def split(
    files: Annotated[
        list[Path], typer.Argument(help="JSONL or Parquet of prompts, samples or labels.")
    ],
    out: OutFolder,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a shard, about.")] = 2000,
    holds: Annotated[
        RowKind | None, typer.Option(help="The kind of the rows; default: by the first one.")
    ] = None,
) -> None:
    """Split files into a folder of shards, in constant memory. A killed split resumes.

    Rows keep their order, and all rows of a prompt stay together. If no line of prompts names a
    split, one prompt in five is held out, as with a file.
    """
    from rlaif.api.sharded import split_shards

    done = split_shards(*files, out=out, rows=rows, holds=holds.value if holds else None)
    output().print(
        f"{done.rows} {done.holds} in {done.shards} shards: {out}", highlight=False, soft_wrap=True
    )


@app.command(epilog="Example: rlaif shards status labels")
def status(
    folder: Annotated[Path, typer.Argument(help="A folder of shards.")], as_json: AsJson = False
) -> None:
    """Show how many shards of a folder are there, and what was counted while they were made."""
    from rlaif.sharding.run import look

    found = look(folder)
    if as_json:
        shown = {"shards": found.shards, "there": found.there, "rows": found.rows}
        print(json.dumps({**shown, "counts": found.counts}, ensure_ascii=False))
        return
    print_counts(found, folder)


def print_report(report: ShardsReport, out: Path) -> None:
    """What a call made, and what the folder has now; exits with 1 where a shard failed."""
    from rlaif.sharding.run import Outcome

    console = output()
    words = {
        Outcome.MADE: "made",
        Outcome.FOUND: "were there",
        Outcome.BUSY: "being made by other processes",
        Outcome.WAITING: "waiting for their source",
        Outcome.RETRIED: "tries lost with their worker and done again",
    }
    did = ", ".join(f"{n} {words[outcome]}" for outcome, n in report.outcomes.items())
    if report.failed:
        did += f"{', ' if did else ''}{len(report.failed)} failed: {', '.join(report.failed)}"
    console.print(f"of {report.own} shards {did}", highlight=False)
    print_counts(report, out)
    if report.failed:
        raise typer.Exit(1)


def print_counts(report: ShardsReport, out: Path) -> None:
    """The state of a folder in a line, and its counts in another."""
    console = output()
    missing = report.shards - report.there
    more = f"; {missing} are missing" if missing else ""
    console.print(
        f"{report.there} of {report.shards} shards, {report.rows} rows: {out}{more}",
        highlight=False,
        soft_wrap=True,
    )
    shown = [text for name, value in report.counts.items() if (text := _counted(name, value))]
    if shown:
        console.print("; ".join(shown), highlight=False)


def _counted(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, dict):
        inner = ", ".join(f"{key} {n:.0f}" for key, n in value.items())
        return f"{words}: {inner}" if inner else ""
    return "" if name.startswith("sum_") or not value else f"{words} {value:.0f}"
