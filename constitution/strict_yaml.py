"""Strict YAML: text → plain data, with the line and column of every value and key.

A constitution needs mappings, lists and scalars only; the rest of YAML is rejected, with its
position: anchors, aliases, merge keys, tags, duplicate keys, several documents. The text is read as
a stream of events with limits on size, depth and count, so hostile input costs milliseconds and
little memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from constitution.errors import ConstitutionError, Diagnostic

MAX_BYTES = 1 << 20  # of UTF-8 text
MAX_DEPTH = 16  # a constitution needs 7
MAX_NODES = 6_000  # keys and values in all; a principle with three examples has about 60
MAX_ITEMS = 256  # in one list or mapping
MAX_PROBLEMS = 50  # reported at once

MAPPING, LIST, ALIAS, NOTHING = "a mapping of keys", "a list", "an alias", "nothing"

Path = tuple[str | int, ...]

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel carries it
_RESOLVER = yaml.resolver.Resolver()  # YAML 1.1: which plain words other readers would convert
_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile(  # YAML 1.2.2, production c-printable, negated
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_REMEDIES = {  # part of libyaml's message → what to do about it
    "mapping values are not allowed": "quote text that holds ': ', or check the indentation",
    "cannot start any token": "indent with spaces, not tabs; quote text that starts with @ ` or %",
    "unexpected end of stream": "a quote or bracket that is opened here is never closed",
    "could not find expected ':'": "write 'key: value', with a space after the colon",
    "unknown escape character": "in double quotes write \\\\ for a backslash, or use single quotes",
    "expected alphabetic or numeric character": "quote text that starts with * or &",
}


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a value or key (1-based), and a description of what was found there.

    The end is the position after a scalar; line 0 for mappings and lists. The end of a block scalar
    (`|` or `>`) may include blank lines that follow it.
    """

    line: int
    column: int
    found: str
    end_line: int = 0
    end_column: int = 0


@dataclass(slots=True)
class Tree:
    """Plain data of dict, list, str, float, bool and None, with the position of each part.

    Numbers are floats. A plain scalar that YAML would convert to anything else (a date, base 60)
    is None, and `Place.found` describes it.
    """

    source: str
    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The position of the value at path, or of its closest enclosing value."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path) or Place(1, 1, NOTHING)

    def report(self, place: Place, message: str, remedy: str) -> None:
        """Record a problem. Raises ConstitutionError, with all problems, at the MAX_PROBLEMS-th."""
        self.problems.append(diagnostic(self.source, place, message, remedy))
        if len(self.problems) >= MAX_PROBLEMS:
            raise ConstitutionError(self.problems)


def parse(text: str, source: str) -> Tree:
    """Parse YAML text into a Tree.

    `Tree.problems` holds those that could be skipped, such as duplicate keys and anchors. Raises
    ConstitutionError where parsing cannot go on: invalid syntax, a limit, an empty file.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise ConstitutionError([too_large(text, source)])
    text = text.removeprefix("\ufeff")
    tree = Tree(source)
    if bad := _UNPRINTABLE.search(text):
        place = place_of_offset(text, bad.start())
        remedy = "delete it, or write it as an escape in double quotes"
        raise _fatal(tree, place, f"invalid control character U+{ord(bad[0]):04X}", remedy)
    try:
        _Composer(tree, yaml.parse(text, Loader=_PARSER)).compose_document()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(tree, text, error) from None
    return tree


def too_large(text: str, source: str) -> Diagnostic:
    """The diagnostic for a text over the size limit, at the position where it exceeds it."""
    fits = text[:MAX_BYTES].encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore")
    place = place_of_offset(text, len(fits))
    message = f"larger than {MAX_BYTES // 1024} KiB: the limit is reached here"
    remedy = "shorten it; a constitution is usually a few pages"
    return Diagnostic(source, place.line, place.column, message, remedy)


def place_of_offset(text: str, offset: int) -> Place:
    """The position of a character, for errors that YAML's own marks do not cover."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Place(text.count("\n", 0, offset) + 1, offset - line_start + 1, "text")


def _fatal(tree: Tree, place: Place, message: str, remedy: str) -> ConstitutionError:
    return ConstitutionError([*tree.problems, diagnostic(tree.source, place, message, remedy)])


def diagnostic(source: str, place: Place, message: str, remedy: str) -> Diagnostic:
    """The diagnostic of a problem at a place."""
    return Diagnostic(
        source, place.line, place.column, message, remedy, place.end_line, place.end_column
    )


def _syntax_error(tree: Tree, text: str, error: yaml.MarkedYAMLError) -> ConstitutionError:
    problem = error.problem or "not YAML"
    remedy = next(
        (remedy for phrase, remedy in _REMEDIES.items() if phrase in problem),
        "check the indentation and the quotes of this line and the one before",
    )
    unclosed = "end of stream" in problem  # the opening quote says more than the end of the file
    mark = (error.context_mark if unclosed else None) or error.problem_mark or error.context_mark
    end = place_of_offset(text, len(text))  # libyaml may point past the last line
    place = Place(mark.line + 1, mark.column + 1, "") if mark and mark.line < end.line else end
    return _fatal(tree, place, f"not valid YAML: {problem}", remedy)


class _Composer:
    """Builds one document's data from parser events; records positions and problems in the tree."""

    def __init__(self, tree: Tree, events: Iterator[Event]) -> None:
        self.tree = tree
        self.events = events
        self.nodes = 0

    def compose_document(self) -> None:
        next(self.events)  # the stream starts
        event = next(self.events)
        if isinstance(event, DocumentStartEvent):
            self.tree.data = self._value(next(self.events), ())
            next(self.events)  # the document ends
            event = next(self.events)
        if self.tree.data is None and not self.tree.problems:
            message, remedy = "the constitution is empty", "see docs/constitution.md for an example"
            raise _fatal(self.tree, Place(1, 1, NOTHING), message, remedy)
        if isinstance(event, DocumentStartEvent):
            remedy = "delete the '---'; one file holds one constitution"
            raise self._refusal(event, "a second document starts here", remedy)

    def _refusal(self, event: Event, message: str, remedy: str) -> ConstitutionError:
        return _fatal(self.tree, _place(event), message, remedy)

    def _value(self, event: Event, path: Path) -> Any:
        """The data of the node that starts with `event`; consumes its events."""
        self._admit(event, path)
        if isinstance(event, MappingStartEvent):
            self.tree.values[path] = _place(event, MAPPING)
            return self._mapping(path)
        if isinstance(event, SequenceStartEvent):
            self.tree.values[path] = _place(event, LIST)
            items: list[Any] = []
            while not isinstance(event := next(self.events), SequenceEndEvent):
                self._admit_item(event, len(items))
                items.append(self._value(event, (*path, len(items))))
            return items
        if isinstance(event, ScalarEvent):
            value, found = _scalar(event)
            self.tree.values[path] = _place(event, found)
            return value
        self.tree.values[path] = _place(event, ALIAS)
        return None

    def _mapping(self, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            self._admit_item(event, len(data))
            self._admit(event, path)
            if not isinstance(event, ScalarEvent):
                message, remedy = "a key must be a plain word", "quote it, or fix the line"
                raise self._refusal(event, message, remedy)
            place = _place(event)
            key = event.value  # as written: `no` and `1` are keys like any other
            if key == "<<" and event.implicit[0]:
                self.tree.report(place, "merge keys (<<) are not allowed", "write the keys out")
                self._value(next(self.events), (*path, key))
            elif key in data:
                first = self.tree.keys[(*path, key)].line
                message = f"duplicate key '{shorten(key)}', first on line {first}"
                self.tree.report(place, message, "delete or rename one of them")
                self._value(next(self.events), (*path, key, "again"))
            else:
                self.tree.keys[(*path, key)] = place
                data[key] = self._value(next(self.events), (*path, key))
        return data

    def _admit_item(self, event: Event, before: int) -> None:
        if before >= MAX_ITEMS:
            message = f"more than {MAX_ITEMS} items in one list or mapping"
            raise self._refusal(event, message, "merge or delete some")

    def _admit(self, event: Event, path: Path) -> None:
        """Reject what no constitution needs before it costs memory.

        Excess depth or size ends the parse; aliases, anchors and tags are recorded as problems.
        """
        self.nodes += 1
        if len(path) >= MAX_DEPTH:
            message, remedy = f"nested deeper than {MAX_DEPTH} levels", "check the brackets"
            raise self._refusal(event, message, remedy)
        if self.nodes > MAX_NODES:
            remedy = "split it into several constitutions"
            raise self._refusal(event, f"more than {MAX_NODES} keys and values in all", remedy)
        # Nothing is resolved or expanded here, so the parse can go on to find further problems.
        place = _place(event)
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if isinstance(event, AliasEvent):
            remedy = "write the value out, or quote text that starts with *"
            self.tree.report(place, f"the alias *{shorten(anchor or '')} is not allowed", remedy)
        elif anchor is not None:
            remedy = "delete it, or quote text that starts with &"
            self.tree.report(place, f"the anchor &{shorten(anchor)} is not allowed", remedy)
        if (tag := getattr(event, "tag", None)) is not None:
            message = f"the tag {shorten(tag.replace(_TAG, '!!'))} is not allowed"
            self.tree.report(place, message, "delete it, or quote text that starts with !")


def _place(event: Event, found: str = "") -> Place:
    mark = event.start_mark
    assert mark is not None  # both parsers set it on every event
    end = event.end_mark if isinstance(event, ScalarEvent) else None
    if end is None or end.index == mark.index:
        return Place(mark.line + 1, mark.column + 1, found)
    return Place(mark.line + 1, mark.column + 1, found, end.line + 1, end.column + 1)


def shorten(text: str, limit: int = 40) -> str:
    """One line of at most `limit` characters, for quoting untrusted text in messages."""
    text = " ".join(text[: 4 * limit].split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _implicit_tag(text: str) -> str:
    """The type YAML 1.1 gives a plain scalar: str, null, bool, int, float, timestamp, …"""
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag.removeprefix(_TAG)


def _scalar(event: ScalarEvent) -> tuple[str | float | bool | None, str]:
    """(value, description) of a scalar."""
    text: str = event.value
    shown = shorten(text)
    plain = event.implicit[0] and len(text) <= 64  # longer ones are text; skipping them is cheap
    match _implicit_tag(text) if plain else "str":
        case "null":
            return None, NOTHING
        case "bool":
            meaning = text.lower() in ("yes", "true", "on")
            return meaning, f"{shown}, which YAML reads as {str(meaning).lower()}"
        case "int" | "float":
            try:
                number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                return number, f"{shown}, a number"
            except ValueError:
                return None, f"{shown}, a number in an unusual notation"
        case "timestamp":
            return None, f"{shown}, a date"
        case _:
            return text, f"the text '{shown}'" if text else "an empty text"
