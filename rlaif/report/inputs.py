"""What a report is made of: the stages of a run, in order, and the folder of each.

<run>/run.json       {"facts": {name: text, …}, "stages": [{"name": …, "kind": …}, …]}
<run>/<stage name>/  the stage's files; sections/ knows which files a kind has
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from constitution.errors import UserError
from constitution.validation import field_problems

Loaded = TypeVar("Loaded")

RUN_FILE = "run.json"


class ReportError(UserError):
    """A report that cannot be made; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage of a run: its name in the recipe, its kind, and the folder of its files."""

    name: str
    kind: str
    folder: Path

    def load(self, file: str, read: Callable[[Path], Loaded]) -> Loaded | None:
        """The content of one of the stage's files; None if it does not exist.

        Raises ReportError if it cannot be read.
        """
        path = self.folder / file
        if not path.is_file():
            return None
        try:
            return read(path)
        except (OSError, ValueError) as error:  # also of pydantic, and RecordError
            raise ReportError(
                f"{path}: cannot be read: {_reason(error, path)}; run the stage {self.name} again"
            ) from error


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """The content of a report.

    facts: {name: text}, shown as they are: recipe, models, seed, date …
    stages: in the order of the run; a file that a stage lacks is shown as missing.
    """

    facts: Mapping[str, str]
    stages: tuple[StageFolder, ...]

    @classmethod
    def of_run(cls, run: Path) -> ReportInputs:
        """The stages that a run folder's run.json lists.

        Raises ReportError: no such folder, no run.json, or one of another form.
        """
        if not run.is_dir():
            raise ReportError(f"no such folder: {run}; `rlaif run RECIPE` makes one")
        content = _read_run_file(run / RUN_FILE)
        stages = (StageFolder(stage.name, stage.kind, run / stage.name) for stage in content.stages)
        return cls(content.facts, tuple(stages))


class _StageEntry(BaseModel):
    name: str
    kind: str


class _RunFile(BaseModel):
    facts: dict[str, str]
    stages: list[_StageEntry]


def _read_run_file(path: Path) -> _RunFile:
    if not path.is_file():
        raise ReportError(
            f"not a run folder: {path.parent} has no {path.name}; run the recipe first"
        )
    try:
        content = read_json_object(path)
    except ValueError as error:
        raise ReportError(f"{path}: cannot be read: {error}; run the recipe again") from error
    if "stages" not in content:
        raise ReportError(
            f"run folder of an older version: {path} lists no stages; run the recipe again in a "
            "new folder (--out)"
        )
    try:
        return _RunFile.model_validate(content)
    except ValidationError as error:
        raise ReportError(
            f"{path}: cannot be read: {_reason(error, path)}; run the recipe again"
        ) from error


def _reason(error: OSError | ValueError, path: Path) -> str:
    """An error in one line, without the path that its message may begin with."""
    if isinstance(error, ValidationError):
        return str(field_problems(error, noun="field")[0])
    return str(error).removeprefix(f"{path}: ")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError for anything else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content
