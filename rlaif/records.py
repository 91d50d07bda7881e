"""The records that travel between stages, and how they are kept on disk.

    Prompt      a conversation that ends with the user's turn
    Sample      one response of a policy to a prompt
    Preference  a labelled pair: chosen, rejected, and P(chosen is better)

Preference files have the columns that TRL and OpenRLHF read as they are (`prompt`, `chosen`,
`rejected`, each a list of {role, content}), plus `prob_chosen`, `traits` and `receipt`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from constitution.errors import UserError
from constitution.schema import Message


class RecordError(UserError):
    """A record file that cannot be read: the message names the file, the line and the field."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(_Record):
    """A conversation waiting for an answer. `messages` ends with a user turn."""

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    topic: str = ""
    kind: str = ""  # e.g. everyday, support, borderline, harmful
    split: str = "train"

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if not messages[-1].content.strip():
            raise ValueError("the last message is empty")
        return messages


class Sample(_Record):
    """One response to a prompt. `index` counts the responses of one prompt from 0."""

    prompt: Prompt
    index: int
    response: str
    tokens: int  # length of the response, end token included
    complete: bool  # the policy ended it by itself, not the bound
    seed: int


class Preference(_Record):
    """A labelled pair in TRL's conversational columns.

    prob_chosen is P(chosen is better) in [0.5, 1]; traits holds the same per trait, in [0, 1]
    (a trait may disagree with the whole), None where the judge did not look at the trait.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...] = Field(min_length=1, max_length=1)
    rejected: tuple[Message, ...] = Field(min_length=1, max_length=1)
    prob_chosen: float = Field(ge=0.0, le=1.0)
    traits: dict[str, float | None] = Field(default_factory=dict)
    receipt: str = ""  # JSON: where the label came from (judging.md)

    @property
    def chosen_text(self) -> str:
        return self.chosen[0].content

    @property
    def rejected_text(self) -> str:
        return self.rejected[0].content


Record = TypeVar("Record", bound=_Record)


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a JSONL file. RecordError names the line and field of the first bad one."""
    return list(iter_jsonl(path, kind))


def iter_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The records of a JSONL file one by one; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, kind, f"{path}:{number}")
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def _parse(line: str, kind: type[Record], where: str) -> Record:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "line"
        shown = repr(first.get("input"))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise RecordError(
            f"{where}: {kind.__name__}.{field}: {first['msg']} (found {shown}); "
            "mend or delete this line and run again"
        ) from error


def write_jsonl(path: Path, records: Iterable[_Record]) -> None:
    """Write atomically: the file is whole or as it was before."""
    with atomic_open(path) as out:
        for record in records:
            out.write(record.model_dump_json() + "\n")


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name only when it is complete and on disk.

    Raises RecordError when the disk is full or the folder cannot be written; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(
            f"{path}: cannot be written ({error.strerror}); nothing was changed"
        ) from error


def write_json(path: Path, value: Any) -> None:
    with atomic_open(path) as out:
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")


def write_preferences(path: Path, preferences: Sequence[Preference]) -> None:
    """One Parquet (or .jsonl) file that `datasets.load_dataset` and TRL read as it is."""
    if path.suffix == ".jsonl":
        write_jsonl(path, preferences)
        return
    traits = sorted({trait for preference in preferences for trait in preference.traits})
    rows = [p.model_dump() for p in preferences]
    for row in rows:
        row["traits"] = {trait: row["traits"].get(trait) for trait in traits}
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _dataset().from_list(rows).to_parquet(str(partial))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(
            f"{path}: cannot be written ({error.strerror}); nothing was changed"
        ) from error


def read_preferences(path: Path) -> list[Preference]:
    """Preferences from Parquet or JSONL; TRL's plain-text columns are read as one user turn."""
    if path.suffix == ".jsonl":
        return read_jsonl(path, Preference)
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    try:
        rows = _dataset().from_parquet(str(path), keep_in_memory=True)
    except Exception as error:
        raise RecordError(f"{path}: not a Parquet file ({error})") from error
    found = []
    for number, row in enumerate(rows):
        found.append(_parse(json.dumps(row), Preference, f"{path}: row {number}"))
    return found


def _dataset() -> Any:
    """`datasets.Dataset`, imported late, without its progress bars: its work here takes moments."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    return Dataset
