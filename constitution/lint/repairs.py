"""Repairs that are certain: as edits of the text that keep everything else of the file.

A repair says which value or key it changes and to what. It counts only if the edited text, parsed
again, has exactly these changes and no others. What is repaired in a file that does not load:

    Compare: …                compare: …              a key, but for case, hyphen and underscore
    trait: Helpful            trait: helpful          a name in the wrong case
    preferred: a              preferred: A            one of the few words that are allowed
    compare: no               compare: "no"           a text that YAML reads as something else
    weight: "1.5"             weight: 1.5             a number in quotes
    version: 1.0              version: "1.0.0"

and in one that does: what `constitution.lint.tidiness` finds. Left out is anything that needs a
guess, such as misspelled keys.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from constitution.consistency import HIGHEST_WEIGHT, LOWEST_WEIGHT, is_slug
from constitution.errors import ConstitutionError
from constitution.lint.finding import Edit
from constitution.lint.locate import Locator, TextSpan
from constitution.lint.tidiness import DOUBLED_SPACE
from constitution.schema import Constitution
from constitution.strict_yaml import ALIAS, LIST, MAPPING, NOTHING, Path, Place, parse

_NAMES = ("name", "id", "trait")
_TEXTS = (
    *("description", "compare", "critique", "revise", "mentions", "excludes"),
    *("prompt", "content", "response_a", "response_b", "note"),
)
_CHOICES = {"preferred": ("A", "B", "TIE"), "role": ("system", "user", "assistant")}
_SHORT_VERSION = re.compile(r"\d+(?:\.\d+)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SPACE_BEFORE_FOLD = re.compile(r"(?<=[^\s.!?:])[ \t]+(?=\r?\n)")
_MOST_CHECKS = 64  # each parses the whole text; what is not checked is not repaired

UNCHANGED = object()


@dataclass(frozen=True, slots=True)
class Repair:
    """Edits, and what they change: the value at `path`, or its last key (`new_key`), or nothing."""

    edits: tuple[Edit, ...]
    path: Path = ()
    value: Any = UNCHANGED
    new_key: str = ""


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The edited text. Raises ValueError if two edits overlap."""
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.end))
    if any(second.start < first.end for first, second in pairwise(ordered)):
        raise ValueError("two edits overlap")
    for edit in reversed(ordered):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def certain(locator: Locator, repairs: Sequence[Repair]) -> list[Repair]:
    """Those repairs that change exactly what they say they change."""
    waiting = _one_per_path(repairs)
    held: list[Repair] = []
    for _ in range(_MOST_CHECKS):
        if not waiting:
            break
        batch = waiting.pop()
        if _holds(locator, batch):
            held += batch
        elif (middle := len(batch) // 2) > 0:  # find the ones that do not
            waiting += [batch[middle:], batch[:middle]]
    return held


def _one_per_path(repairs: Sequence[Repair]) -> list[list[Repair]]:
    """The repairs in batches, so that no two of a batch change the same part."""
    batches: list[dict[Path, Repair]] = []
    for repair in repairs:
        free = next((batch for batch in batches if repair.path not in batch), None)
        if free is None:
            batches.append(free := {})
        free[repair.path] = repair
    return [list(batch.values()) for batch in batches]


def _holds(locator: Locator, repairs: Sequence[Repair]) -> bool:
    expected = copy.deepcopy(locator.tree.data)
    # Values first, then keys from the inside out: a renamed key changes the paths below it.
    for repair in sorted(repairs, key=lambda r: (bool(r.new_key), -len(r.path))):
        _change(expected, repair)
    edits = {edit for repair in repairs for edit in repair.edits}
    try:
        tree = parse(apply_edits(locator.text, sorted(edits, key=lambda e: e.start)), "")
    except (ConstitutionError, ValueError):
        return False
    return bool(tree.data == expected) and len(tree.problems) == len(locator.tree.problems)


def _change(data: Any, repair: Repair) -> None:
    if repair.value is UNCHANGED and not repair.new_key:
        return
    *parents, last = repair.path
    for step in parents:
        data = data[step]
    if repair.new_key:
        data[repair.new_key] = data.pop(last)
    else:
        data[last] = repair.value


# ── files that do not load ───────────────────────────────────────────────────────────────────


def spelling_repairs(locator: Locator) -> Iterator[tuple[Place, Repair]]:
    """Repairs of what the schema rejects, each with the place of the key or value it repairs."""
    tree = locator.tree
    for path, place in tree.keys.items():
        if not _exists(tree.data, path):  # inside a second value of one key
            continue
        span, new_key = locator.scalar(place), _right_key(path, _at(tree.data, path[:-1]))
        if new_key and span and locator.text[span.start : span.end] == path[-1]:
            edit = Edit(span.start, span.end, new_key)
            yield place, Repair((edit,), path, new_key=new_key)
    for path, place in tree.values.items():
        span = locator.scalar(place)
        if span is None or not path or not _exists(tree.data, path):
            continue
        written, value = locator.text[span.start : span.end], _at(tree.data, path)
        better = _right_value(path, place, written, value)
        if better and not _is_other_id(tree.data, path, better[1]):
            yield place, Repair((Edit(span.start, span.end, better[0]),), path, better[1])


def _is_other_id(data: Any, path: Path, value: object) -> bool:
    """Whether the path is a principle's id, and another principle has this id but for its case."""
    if path[:1] != ("principles",) or path[2:] != ("id",):
        return False
    ids = [str(_at(principle, ("id",))).lower() for principle in data["principles"]]
    return ids.count(str(value)) > 1


def _right_key(path: Path, siblings: dict[str, Any]) -> str:
    """The key that a rejected one stands for without doubt; "" if it is valid, or in doubt."""
    *parent, key = path
    twins = [name for name in siblings if _folded(name) == _folded(str(key))]
    if len(twins) > 1:
        return ""
    if parent == ["traits"]:
        lower = str(key).lower()
        return lower if lower != key and is_slug(lower) else ""
    known = Constitution.keys_at(parent)
    like = [name for name in known if _folded(name) == _folded(str(key))]
    return like[0] if like and key not in known else ""


def _folded(key: str) -> str:
    return re.sub(r"[-_\s]", "_", key.casefold())


def _right_value(
    path: Path, place: Place, written: str, value: Any
) -> tuple[str, str | float] | None:
    """(text to write, value it then has) for a value that is rejected; None where in doubt."""
    key = path[-2] if path[-2:-1] in (("mentions",), ("excludes",)) else path[-1]
    is_name = key in _NAMES
    if isinstance(value, str):
        if key in _CHOICES:
            right = next((w for w in _CHOICES[key] if w.casefold() == value.casefold()), value)
        else:
            right = value.lower() if is_name and is_slug(value.lower()) else value
        if right != value and value in written:
            return written.replace(value, right), right  # in the same quotes
        is_number = key == "weight" and _NUMBER.fullmatch(value) and written.strip("'\"") == value
        if is_number and LOWEST_WEIGHT <= float(value) <= HIGHEST_WEIGHT:
            return value, float(value)
        return None
    # A plain word that YAML reads as a number, a truth value or a date.
    if place.found in (NOTHING, LIST, MAPPING, ALIAS):
        return None
    if path == ("version",) and _SHORT_VERSION.fullmatch(written):
        numbers = ".".join([*written.split("."), "0", "0"][:3])
        return f'"{numbers}"', numbers
    if key in _TEXTS or (is_name and is_slug(written)):
        return f'"{written}"', written
    return None


def _exists(data: Any, path: Path) -> bool:
    parent = _at(data, path[:-1])
    keys = range(len(parent)) if isinstance(parent, list) else parent
    return isinstance(parent, dict | list) and path[-1] in keys


def _at(data: Any, path: Path) -> Any:
    """The part at the path; None if it does not exist."""
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


# ── texts of files that load ─────────────────────────────────────────────────────────────────


def rewording(locator: Locator, path: Path, better: str) -> Repair | None:
    """The repair that makes the text at `path` read `better`, by single spaces or a period."""
    place, value = locator.tree.place(path), _at(locator.tree.data, path)
    span = locator.scalar(place)
    if span is None or not isinstance(value, str):
        return None
    content = TextSpan(locator.block_header(span).end, span.end)
    is_block = content.start > span.start
    if better.split() == value.split():
        edits = _single_spaces(locator.text, content)
        if is_block and locator.text[span.start] == ">":  # where lines are joined by a space
            edits += _no_spaces_at_line_ends(locator.text, content)
    else:
        quote = 0 if is_block or locator.text[span.start] not in "'\"" else 1
        end = len(locator.text[: span.end - quote].rstrip())
        edits = [Edit(end, end, better[-1])]
    return Repair(tuple(edits), path, value.replace(value.strip(), better)) if edits else None


def _single_spaces(text: str, span: TextSpan) -> list[Edit]:
    runs = DOUBLED_SPACE.finditer(text, span.start, span.end)
    return [Edit(match.start(), match.end(), " ") for match in runs]


def _no_spaces_at_line_ends(text: str, span: TextSpan) -> list[Edit]:
    ends = _SPACE_BEFORE_FOLD.finditer(text, span.start, span.end)
    return [Edit(match.start(), match.end(), "") for match in ends]
