"""Options and consoles shared by the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution import DEFAULT_CONSTITUTION

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif.data.prompt_split import PromptSet

DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_WAIT_S = 600.0

Server = Annotated[
    str, typer.Option(help="Address of a running judge server.", metavar="HOST:PORT")
]
OwnJudge = Annotated[
    str,
    typer.Option(
        "--judge", help="Start a judge server with this model for the length of this command."
    ),
]
ConstitutionName = Annotated[
    str,
    typer.Option(
        "--constitution",
        "-c",
        help="The name of a constitution, or a YAML file; by default the server's own, which is "
        f"{DEFAULT_CONSTITUTION} unless it was started with another.",
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
        help=f"How long --wait waits at most; implies --wait. [{DEFAULT_WAIT_S:g}]",
        metavar="SECONDS",
    ),
]
SamplePrinciples = Annotated[
    int | None,
    typer.Option(min=1, help="Principles drawn per pair (seeded); all that apply by default."),
]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="Settings, e.g. learning_rate=1e-4.", metavar="[KEY=VALUE]..."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")]


def output() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def say_split(prompts: PromptSet) -> None:
    """Say on stderr how a file of prompts was split, where the file itself does not name it."""
    if prompts.rule is not None and os.environ.get("RANK", "0") == "0":
        print(prompts.describe(), file=sys.stderr)
