"""What a format of data sets is, and the checks and builders that formats share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any

from rlaif.data.records import Lesson, RecordError
from rlaif.data.rows import shown

Fields = Mapping[str, Any]

Turn = dict[str, Any]
"""A message: {"role": "system" | "user" | "assistant", "content": text}."""

WEIGHTS = ("weight", "loss", "train")
"""Keys of a message with which formats say that a reply is not trained on: 0 or false."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row, or a pair of it, that is not used: counted by its reason, never an error."""

    reason: str


Converted = Lesson | LeftOut

Convert = Callable[[Iterable[tuple[str, Fields]]], Iterator[Converted]]
"""Turns the rows of a file, each with its place for errors, into records, lazily and in order."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of data sets.

    recognize: whether a file is in this format, from the fields of its first row. convert: rows to
    Preferences, or to Demonstrations where the format has no pairs. columns: the columns that it
    reads. url: the format's public description. lessons: the same to records to imitate, where
    those are not the preferences' chosen responses. prompt: the turns in a row's column `prompt`,
    where that is a text with more than the user's turn and not a transcript.
    """

    recognize: Callable[[Fields], bool]
    convert: Convert
    columns: frozenset[str]
    url: str
    lessons: Convert | None = None
    prompt: Callable[[str], list[Turn]] | None = None


def by_row(convert_row: Callable[[Fields, str], Iterable[Converted]]) -> Convert:
    """Make a `Convert` of a function of one row and its place."""

    def convert(rows: Iterable[tuple[str, Fields]]) -> Iterator[Converted]:
        for where, fields in rows:
            yield from convert_row(fields, where)

    return convert


def has(*names: str) -> Callable[[Fields], bool]:
    """A `recognize` that asks for these columns."""
    return lambda fields: all(name in fields for name in names)


def text(fields: Fields, name: str, where: str) -> str:
    """A field that must be text. Raises RecordError naming place and field."""
    value = fields.get(name)
    if isinstance(value, str):
        return value
    raise wrong(where, name, "a text", value)


def optional_text(fields: Fields, name: str, where: str) -> str:
    """A field that may be missing or null: "" then. Raises RecordError if it is not text."""
    return "" if fields.get(name) is None else text(fields, name, where)


def objects(value: Any, name: str, where: str) -> list[Fields]:
    """A list of JSON objects, possibly empty. Raises RecordError for anything else."""
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return value
    raise wrong(where, name, "a list of objects", value)


def number(value: Any) -> float | None:
    """A finite number, also one written as text ("4"), or None; true and false are not numbers."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def needed_number(fields: Fields, name: str, where: str) -> float:
    """A field that must be a number. Raises RecordError naming place and field."""
    value = number(fields.get(name))
    if value is None:
        raise wrong(where, name, "a number", fields.get(name))
    return value


def wrong(where: str, name: str, expected: str, value: Any) -> RecordError:
    """The error of a field with a value that is not what the format has there."""
    found = "nothing" if value is None else shown(value)
    return RecordError(
        f"{where}: {name}: {expected} is needed (found {found}); correct or delete this line"
    )


def user(content: str) -> Turn:
    """A user's turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Turn:
    """An assistant's turn."""
    return {"role": "assistant", "content": content}


def renamed(
    turns: list[Fields],
    role_key: str,
    content_key: str,
    roles: Mapping[str, str],
    name: str,
    where: str,
) -> list[Turn]:
    """Turns written with other keys and role names, as messages.

    roles: a role of the format → ours. Weights of turns are kept. Raises RecordError for another
    role, or content that is not text.
    """
    found = []
    for turn in turns:
        role, content = turn.get(role_key), turn.get(content_key)
        if not isinstance(role, str) or role not in roles:
            raise wrong(where, f"{name}.{role_key}", f"one of {', '.join(roles)}", role)
        if not isinstance(content, str):
            raise wrong(where, f"{name}.{content_key}", "a text", content)
        weights = {key: turn[key] for key in WEIGHTS if turn.get(key) is not None}
        found.append({"role": roles[role], "content": content, **weights})
    return found


def ranked_pairs(answers: list[tuple[float | None, str]]) -> Iterator[tuple[str, str] | LeftOut]:
    """Every pair of a prompt's answers as (better, worse), or why it is not one.

    answers: (score, text), a higher score is better. Ouyang et al. train on all pairs of a ranking
    too (arXiv:2203.02155, section 3.5).
    """
    for (score_a, a), (score_b, b) in combinations(answers, 2):
        if score_a is None or score_b is None:
            yield LeftOut("no score")
        elif score_a == score_b:
            yield LeftOut("equal scores")
        else:
            yield (a, b) if score_a > score_b else (b, a)


def content_id(content: Any) -> str:
    """An id made from the content of a record: 16 hexadecimal digits."""
    written = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(written.encode()).hexdigest()[:16]
