"""Options, and the output console, shared by all commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION
from rlaif.cli import complete

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_WAIT_S = 600.0
PIPED_COLUMNS = 120  # where COLUMNS is not set

Server = Annotated[
    str,
    typer.Option(
        help="Address of a running judge server, or of several with commas: all of them work.",
        metavar="HOST:PORT",
    ),
]
OwnJudge = Annotated[
    str,
    typer.Option(
        "--judge",
        help="Start a judge server with this model for the duration of this command.",
        autocompletion=complete.models,
    ),
]
ConstitutionName = Annotated[
    str,
    typer.Option(
        "--constitution",
        "-c",
        help="A constitution: its name, or a YAML file. By default the server's own, which is "
        f"{DEFAULT_CONSTITUTION} unless the server was started with another.",
        autocompletion=complete.constitutions,
    ),
]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Wait until the server is up and has loaded its model."),
]
WaitTimeout = Annotated[
    float | None,
    typer.Option(
        min=0,
        help=f"Maximum time that --wait waits; implies --wait. [{DEFAULT_WAIT_S:g}]",
        metavar="SECONDS",
    ),
]
SamplePrinciples = Annotated[
    int | None,
    typer.Option(min=1, help="Principles sampled per pair (seeded); by default all that apply."),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="Settings as key=value, e.g. seed=3.", metavar="[KEY=VALUE]..."),
]
Prompts = Annotated[
    str,
    typer.Argument(
        help="'quickstart' or a JSONL file of prompts.", autocompletion=complete.prompts
    ),
]
RewardFolder = Annotated[Path, typer.Argument(help="The folder written by rlaif train reward.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")]


def output() -> Console:
    """The console for standard output, as wide as COLUMNS says, else as the terminal. Where it is
    piped, tables have 120 columns, and a sentence or a path is one line however long it is."""
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) > 0 else None
    terminal = sys.stdout.isatty()
    return Console(
        width=width if width or terminal else PIPED_COLUMNS, soft_wrap=not (width or terminal)
    )
