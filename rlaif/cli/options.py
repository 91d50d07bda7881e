"""What the commands share: option types, consoles, key=value settings."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel
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

Config = TypeVar("Config", bound="BaseModel")


def output() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)


def say_split(prompts: PromptSet) -> None:
    """Say on stderr how a file of prompts was split, where the file itself does not name it."""
    if prompts.rule is not None and os.environ.get("RANK", "0") == "0":
        print(prompts.describe(), file=sys.stderr)


def configured(config: type[Config], settings: list[str] | None, base: dict[str, Any]) -> Config:
    """`base` with key=value settings laid over it, checked. Dots reach into nested settings.

    Raises UserError naming the field, the value and the nearest known key.
    """
    from pydantic import ValidationError

    merged = merge_settings(base, settings or [])
    try:
        return config.model_validate(merged)
    except ValidationError as error:
        raise UserError(explain(error, config)) from error


def merge_settings(base: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    import copy

    import yaml

    merged = copy.deepcopy(base)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{setting!r} is not a setting; write key=value, e.g. seed=3")
        place = merged
        *outer, last = key.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"{setting!r}: {part} has no settings of its own")
            place = inner
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{setting!r}: the value is not YAML ({error})") from error
        if isinstance(place[last], str):  # YAML 1.1 reads 1e-4 as text
            place[last] = _number(place[last])
    return merged


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def explain(error: Any, config: type[BaseModel]) -> str:
    """A pydantic error as one line per field, with the nearest key for an unknown one."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _keys_at(config, problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            lines.append(f"{where}: unknown setting; {hint}")
        elif not where:  # of several settings together: the validator's own sentence names them
            lines.append(problem["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"{where}: {problem['msg']} (found {problem.get('input')!r})")
    return "\n".join(lines)


def _keys_at(config: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    model: Any = config
    for part in path:
        kind = model.model_fields[str(part)].annotation
        kinds = get_args(kind) or (kind,)  # X | None: the settings of X
        model = next(k for k in kinds if hasattr(k, "model_fields"))
    return list(model.model_fields)
