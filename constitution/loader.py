"""Constitutions from YAML: every problem at once, each with its line, column and remedy."""

from __future__ import annotations

import os
from importlib import resources
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from constitution.errors import ConstitutionError, Diagnostic
from constitution.schema import (
    Constitution,
    Example,
    Message,
    Principle,
    Scope,
    Trait,
    inconsistencies,
    nearest,
)
from constitution.strict_yaml import (
    LIST,
    MAPPING,
    MAX_BYTES,
    MAX_PROBLEMS,
    NOTHING,
    Path,
    Place,
    Tree,
    parse,
    place_of_offset,
    shorten,
)

MAX_ERRORS = 1000  # beyond it a file is not a constitution with mistakes, and not worth explaining

_LIBRARY = resources.files("constitution") / "library"


def load(name_or_path: str | os.PathLike[str]) -> Constitution:
    """A shipped constitution by name, or a file by path. Raises ConstitutionError."""
    return load_text(*read_source(name_or_path))


def load_text(text: str, source: str = "<text>") -> Constitution:
    """The constitution in a YAML text; `source` names it in errors. Raises ConstitutionError."""
    return build(parse(text, source))


def library_names() -> tuple[str, ...]:
    """The names of the constitutions that ship."""
    files = (entry.name for entry in _LIBRARY.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


def read_source(name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """(text, source) of a shipped name or a path, told apart as `Constitution.load` says."""
    name = os.fspath(name_or_path)
    is_path = os.sep in name or "/" in name or name.endswith((".yaml", ".yml"))
    if is_path or not isinstance(name_or_path, str):
        return _read_file(name), name
    names = library_names()
    if name not in names:
        path_hint = f"for the file write ./{name}" if os.path.isfile(name) else ""
        hints = (nearest(name, names), path_hint, f"those that ship: {', '.join(names)}")
        remedy = "; ".join(hint for hint in hints if hint)
        message = f"no constitution of the name '{name}' ships with rlaif"
        raise ConstitutionError([Diagnostic(name, 0, 0, message, remedy)])
    return (_LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"), f"library/{name}.yaml"


def _read_file(path: str) -> str:
    """The file's text; of one over the cap a byte more than that, which `parse` refuses."""
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
        remedy = f"check the path, or name one that ships: {', '.join(library_names())}"
    raise ConstitutionError([Diagnostic(path, place.line, place.column, problem, remedy)])


def build(tree: Tree) -> Constitution:
    """The constitution that a tree spells. Raises ConstitutionError with all of its problems."""
    problems = list(tree.problems)
    told = {(d.line, d.column) for d in problems}  # what YAML refuses needs no second complaint
    try:
        constitution = Constitution.model_validate(tree.data)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            place, message = tree.place(()), f"more than {MAX_ERRORS} missing or wrong parts"
            remedy = "start from one that ships, such as hhh"
            raise ConstitutionError([_diagnostic(tree, place, message, remedy)]) from None
        errors = error.errors(include_url=False, include_input=False)[:MAX_PROBLEMS]
        problems += [d for d in _explain_all(tree, errors) if (d.line, d.column) not in told]
    if problems:
        raise ConstitutionError(sorted(problems, key=lambda d: (d.line, d.column))[:MAX_PROBLEMS])
    return constitution


def _explain_all(tree: Tree, errors: list[ErrorDetails]) -> list[Diagnostic]:
    found = _inconsistencies(tree)
    mistyped: set[Path] = set()  # the missing keys that an unknown key was meant to be
    for error in errors:
        if error["type"] == "extra_forbidden":
            *parent, key = _path(tree, error)
            known = _keys_at(tuple(parent))
            present = _at(tree.data, tuple(parent))
            meant = nearest(str(key), [name for name in known if name not in present])
            mistyped.update((*parent, name) for name in known if f"'{name}'" in meant)
            remedy = meant or f"the keys here are {', '.join(known)}"
            place = tree.keys[(*parent, key)]
            found.append(_diagnostic(tree, place, f"unknown key '{shorten(str(key))}'", remedy))
    for error in errors:
        path = _path(tree, error)
        if error["type"] == "extra_forbidden" or path in mistyped:
            continue
        if error["type"] == "missing":
            message = f"{_name(tree, path[:-1])} lacks the key '{path[-1]}'"
            found.append(_diagnostic(tree, tree.place(path[:-1]), message, f"add '{path[-1]}: …'"))
        elif error["type"] == "too_short" and _at(tree.data, path):
            continue  # pydantic counts the right items only; the wrong ones are told beside
        elif path or error["type"] != "value_error":  # at the root: the inconsistencies, told above
            found.append(_explain(tree, path, error))
    return found


def _explain(tree: Tree, path: Path, error: ErrorDetails) -> Diagnostic:
    """A wrong value: what was expected, what was found, and the remedy."""
    kind, context = error["type"], error.get("ctx", {})
    place = tree.keys[path] if error["loc"][-1:] == ("[key]",) else tree.place(path)
    remedy = ""
    match kind:
        case "value_error":
            message = str(context["error"])
            if place.found not in ("", LIST, MAPPING):
                message += f", found {place.found}"
        case "string_type":
            message = f"expected text, found {place.found}"
            remedy = _quoting_advice(path, place)
        case "float_type":
            message = f"expected a number, found {place.found}"
            remedy = "write it without quotes, such as 1.5"
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
            remedy = f"its keys are {', '.join(known)}" if (known := _keys_at(path)) else ""
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
    """The cross-checks on what is readable, so that they are told beside the other problems."""
    traits, principles = _at(tree.data, ("traits",)), _at(tree.data, ("principles",))
    if not isinstance(traits, dict) or not isinstance(principles, list):
        return []
    named = [(_text(_at(p, ("id",))), _text(_at(p, ("trait",)))) for p in principles]
    found = []
    for problem in islice(inconsistencies(traits, named), MAX_PROBLEMS):
        is_trait = problem.path[0] == "traits"
        place = tree.keys[problem.path] if is_trait else tree.place(problem.path)
        found.append(_diagnostic(tree, place, problem.message, problem.remedy))
    return found


def _diagnostic(tree: Tree, place: Place, message: str, remedy: str) -> Diagnostic:
    return Diagnostic(tree.source, place.line, place.column, shorten(message, 400), remedy)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _at(data: Any, path: Path) -> Any:
    """The part of plain data at path; None where there is none."""
    for step in path:
        if isinstance(data, dict) and isinstance(step, str):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _path(tree: Tree, error: ErrorDetails) -> Path:
    """Pydantic's location without the steps that are not in the data (union tags, '[key]')."""
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


def _keys_at(path: Path) -> tuple[str, ...]:
    """The keys that the schema knows for the mapping at path."""
    names = tuple(step for step in path if isinstance(step, str))
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): Constitution,
        ("principles",): Principle,
        ("principles", "scope"): Scope,
        ("principles", "examples"): Example,
        ("principles", "examples", "prompt"): Message,
    }
    model = Trait if names[:1] == ("traits",) and len(names) > 1 else models.get(names)
    return tuple(model.model_fields) if model else ()


def _name(tree: Tree, path: Path) -> str:
    """A path in the reader's words: principle 'tone', example 2, preferred."""
    words: list[str] = []
    for depth, step in enumerate(path):
        if isinstance(step, int):
            name = _at(tree.data, (*path[: depth + 1], "id"))
            label = f"'{shorten(name)}'" if isinstance(name, str) else str(step + 1)
            words[-1] = f"{words[-1].removesuffix('s')} {label}"
        else:
            words.append(shorten(step))
    return ", ".join(words) or "the constitution"
