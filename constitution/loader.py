"""Loading constitutions from YAML: reports every problem, with its line, column and remedy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from constitution.consistency import HIGHEST_WEIGHT, LOWEST_WEIGHT, inconsistencies, is_slug
from constitution.errors import ConstitutionError, Diagnostic, nearest
from constitution.strict_yaml import (
    LIST,
    MAPPING,
    MAX_BYTES,
    MAX_PROBLEMS,
    NOTHING,
    Path,
    Place,
    Tree,
    diagnostic,
    parse,
    place_of_offset,
    shorten,
)

WEIGHT_RANGE = f"from {LOWEST_WEIGHT} to {HIGHEST_WEIGHT:g}"  # weights are the only numbers
MAX_ERRORS = 1000  # with more, the file is hardly a constitution: they are not explained one by one

_LIBRARY = resources.files("constitution") / "library"


class Document(Protocol):
    """A model that is written as YAML: `Constitution`, which calls this module to load itself."""

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """Validate plain data: dict, list, str, float, bool, None.

        Raises pydantic's ValidationError, which `build` explains.
        """
        ...

    @staticmethod
    def keys_at(path: Sequence[str | int]) -> tuple[str, ...]:
        """The keys allowed in the mapping at `path`, for suggestions; () where none is."""
        ...


Kind = TypeVar("Kind", bound=Document)


def parse_text(text: str, source: str, kind: type[Kind]) -> Kind:
    """The document in a YAML text; `source` names it in errors. Raises ConstitutionError."""
    return build(parse(text, source), kind)


def library_names() -> tuple[str, ...]:
    """The names of the shipped constitutions, sorted."""
    files = (entry.name for entry in _LIBRARY.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


def read_source(name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """(text, source) of a shipped name or a path, distinguished as in `Constitution.load`.

    Raises ConstitutionError for an unknown name, and a file that is unreadable or not UTF-8.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        message, remedy = "invalid constitution", "give a name or a path"
        raise ConstitutionError([Diagnostic(repr(name_or_path), 0, 0, message, remedy)])
    name = os.fspath(name_or_path)
    is_path = os.sep in name or "/" in name or name.endswith((".yaml", ".yml"))
    if is_path or not isinstance(name_or_path, str):
        return _read_file(name), name
    names = library_names()
    if name not in names:
        path_hint = f"to load the file, write ./{name}" if os.path.isfile(name) else ""
        hints = (nearest(name, names), path_hint, f"available: {', '.join(names)}")
        remedy = "; ".join(hint for hint in hints if hint)
        message = f"unknown constitution '{name}'"
        raise ConstitutionError([Diagnostic(name, 0, 0, message, remedy)])
    return (_LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"), f"library/{name}.yaml"


def _read_file(path: str) -> str:
    """The file's text, up to one byte over the size limit, which `parse` then reports."""
    problem = remedy = ""
    place = Place(0, 0, "")
    raw = b""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        return raw.decode("utf-8", "strict" if len(raw) <= MAX_BYTES else "replace")
    except UnicodeDecodeError as error:
        read = raw[: error.start].decode("utf-8")
        place = place_of_offset(read, len(read))
        problem, remedy = f"not UTF-8 text: {error.reason}", "save the file as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problem = f"cannot be read: {reason}"
        remedy = f"check the path, or use a shipped constitution: {', '.join(library_names())}"
    raise ConstitutionError([Diagnostic(path, place.line, place.column, problem, remedy)])


def build(tree: Tree, kind: type[Kind]) -> Kind:
    """Validate a parsed tree. Raises ConstitutionError, which lists all of its problems."""
    problems = list(tree.problems)
    refused = {(d.line, d.column) for d in problems}  # by YAML: one complaint is enough
    try:
        document = kind.model_validate(tree.data)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            place, message = tree.place(()), f"more than {MAX_ERRORS} missing or wrong parts"
            remedy = "start from one that ships, such as hhh"
            raise ConstitutionError([_diagnostic(tree, place, message, remedy)]) from None
        errors = error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
        explained = _explain_all(tree, errors, kind)
        problems += [d for d in explained if (d.line, d.column) not in refused]
    if problems:
        raise ConstitutionError(sorted(problems, key=lambda d: (d.line, d.column))[:MAX_PROBLEMS])
    return document


def _explain_all(tree: Tree, errors: list[ErrorDetails], kind: type[Document]) -> list[Diagnostic]:
    diagnostics = _inconsistencies(tree)

    def add(place: Place, message: str, remedy: str) -> None:
        diagnostics.append(_diagnostic(tree, place, message, remedy))

    mistyped: set[Path] = set()  # missing keys that an unknown key probably stands for
    for error in errors:
        if error["type"] == "extra_forbidden":
            *parent, key = _path(tree, error)
            known = kind.keys_at(parent)
            present = _at(tree.data, tuple(parent))
            meant = nearest(str(key), [name for name in known if name not in present])
            mistyped.update((*parent, name) for name in known if f"'{name}'" in meant)
            remedy = meant or f"the keys here are {', '.join(known)}"
            place = tree.keys[(*parent, key)]
            add(place, f"unknown key '{shorten(str(key))}'", remedy)
    for error in errors:
        path = _path(tree, error)
        if error["type"] == "extra_forbidden" or path in mistyped:
            continue
        if error["type"] == "missing":
            message = f"{_name(tree, path[:-1])} lacks the key '{path[-1]}'"
            add(tree.place(path[:-1]), message, f"add '{path[-1]}: …'")
        elif error["type"] == "too_short" and _at(tree.data, path):
            continue  # pydantic counts valid items only; the invalid ones are reported themselves
        elif path or error["type"] != "value_error":  # at the root: the inconsistencies above
            diagnostics.append(_explain(tree, path, error, kind))
    return diagnostics


def _explain(tree: Tree, path: Path, error: ErrorDetails, kind: type[Document]) -> Diagnostic:
    """The diagnostic of an invalid value: what was expected, what was found, and the remedy."""
    context = error.get("ctx", {})
    place = tree.keys[path] if error["loc"][-1:] == ("[key]",) else tree.place(path)
    remedy = ""
    match error["type"]:
        case "value_error":
            message = str(context["error"])
            if place.found not in ("", LIST, MAPPING):
                message += f", found {place.found}"
            is_key = error["loc"][-1:] == ("[key]",)
            name = str(path[-1]) if is_key else _text(_at(tree.data, path))
            if (is_key or path[-1] in ("name", "id", "trait")) and is_slug(name.lower()):
                remedy = f"write {name.lower()}"
        case "string_type":
            message = f"expected text, found {place.found}"
            remedy = _quoting_advice(path, place)
        case "float_type":
            message = f"expected a number, found {place.found}"
            remedy = f"write it without quotes, {WEIGHT_RANGE}, such as 1.5"
        case "string_too_short":
            message, remedy = "must not be empty", "write a text, or delete what it belongs to"
        case "too_short":
            message, remedy = "must not be empty", "write at least one"
        case "literal_error":
            message = f"expected {context['expected']}, found {place.found}"
        case "tuple_type":
            message = f"expected a list, found {place.found}"
            remedy = "start each item on its own line with '- '"
        case "model_type" | "dict_type":
            message = f"expected a mapping of keys, found {place.found}"
            remedy = f"its keys are {', '.join(known)}" if (known := kind.keys_at(path)) else ""
        case _:
            message = error["msg"]
    return _diagnostic(tree, place, f"{_name(tree, path)}: {message}", remedy)


def _quoting_advice(path: Path, place: Place) -> str:
    written = place.found.split(",")[0]
    if place.found in (NOTHING, LIST, MAPPING):
        return "write a text, or delete the key"
    if path[-1] == "version":
        numbers = [*written.split("."), "0", "0"][:3]
        return f'put three numbers in quotes: version: "{".".join(numbers)}"'
    return f'put it in quotes: "{written}"'


def _inconsistencies(tree: Tree) -> list[Diagnostic]:
    """Cross-checks of the readable parts, so that they are reported along with the rest."""
    traits, principles = _at(tree.data, ("traits",)), _at(tree.data, ("principles",))
    if not isinstance(traits, dict) or not isinstance(principles, list):
        return []
    named = [(_text(_at(p, ("id",))), _text(_at(p, ("trait",)))) for p in principles]
    diagnostics = []
    for problem in islice(inconsistencies(traits, named), MAX_PROBLEMS):
        is_trait = problem.path[0] == "traits"
        place = tree.keys[problem.path] if is_trait else tree.place(problem.path)
        diagnostics.append(_diagnostic(tree, place, problem.message, problem.remedy))
    return diagnostics


def _diagnostic(tree: Tree, place: Place, message: str, remedy: str) -> Diagnostic:
    return diagnostic(tree.source, place, shorten(message, 400), remedy)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _at(data: Any, path: Path) -> Any:
    """The part of plain data at path; None if it does not exist."""
    for step in path:
        if isinstance(data, dict) and isinstance(step, str):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _path(tree: Tree, error: ErrorDetails) -> Path:
    """Pydantic's location, without the steps that are not in the data (union tags, '[key]')."""
    if not error["loc"]:
        return ()
    *steps, last = error["loc"]
    path: Path = ()
    for step in steps:
        if (*path, step) in tree.values:
            path = (*path, step)
    if error["type"] == "missing" or (*path, last) in tree.values:
        return (*path, last)
    return path


def _name(tree: Tree, path: Path) -> str:
    """A path in readable form: principle 'tone', example 2, preferred."""
    words: list[str] = []
    for depth, step in enumerate(path):
        if isinstance(step, int):
            name = _at(tree.data, (*path[: depth + 1], "id"))
            label = f"'{shorten(name)}'" if isinstance(name, str) else str(step + 1)
            words[-1] = f"{words[-1].removesuffix('s')} {label}"
        else:
            words.append(shorten(step))
    return ", ".join(words) or "the constitution"
