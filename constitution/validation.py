"""One reading of pydantic's errors: which field, what is wrong with it, and which value it has.

ppo.iteratons: unknown setting; did you mean 'iterations'?
seed: Input should be a valid integer (found 'x')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from constitution.errors import nearest

_LONGEST_VALUE = 80  # characters of a value that a message quotes

KeysAt = Callable[[Sequence[int | str]], Iterable[str]]  # path of a mapping -> its known keys


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field. `kind` is pydantic's name for it, such as "missing"."""

    path: tuple[int | str, ...]
    kind: str
    message: str

    @property
    def field(self) -> str:
        """The field's path, with dots; "" for the value as a whole."""
        return ".".join(map(str, self.path))

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path else self.message


def field_problems(
    error: ValidationError, known: type[BaseModel] | KeysAt | None = None, noun: str = "key"
) -> tuple[FieldProblem, ...]:
    """Every problem of a validation, in pydantic's order; at least one.

    With `known`, a model or a function, an unknown key is answered with the nearest known one.
    noun: what a key is called where the values come from, such as "setting" or "field". A default
    that could not be had, because of another problem, is none of its own.
    """
    keys_at = partial(keys_of, known) if isinstance(known, type) else known
    return tuple(
        FieldProblem(tuple(each["loc"]), each["type"], _message(each, keys_at, noun))
        for each in error.errors(include_url=False)
        if each["type"] != "default_factory_not_called"
    )


def _message(error: ErrorDetails, keys_at: KeysAt | None, noun: str) -> str:
    match error["type"]:
        case "extra_forbidden":
            *parent, key = error["loc"]
            known = list(keys_at(parent)) if keys_at else []
            listed = f"known: {', '.join(sorted(known))}" if known else "remove it"
            return f"unknown {noun}; {nearest(str(key), known) or listed}"
        case "missing":
            return f"missing {noun}"
        case "value_error":  # a validator of ours: its sentence says what to do
            return str(error["ctx"]["error"]) + _found(error)
        case "literal_error" | "enum":
            known = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
            near = nearest(str(error["input"]), known)
            return error["msg"] + (f"; {near}" if near else "") + _found(error)
        case _:
            return error["msg"] + _found(error)


def _found(error: ErrorDetails) -> str:
    """The value, where a person could recognize it: not for whole mappings and models."""
    value = error.get("input")
    if not error["loc"] or isinstance(value, (dict, BaseModel)):
        return ""
    text = repr(value)
    short = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
    return f" (found {short})"


def keys_of(model: type[BaseModel], path: Sequence[int | str]) -> Iterator[str]:
    """The keys of the model at a path of nested models; none where there is no model."""
    here: Any = model
    for part in path:
        if isinstance(part, int):  # an item: its list's type was already entered
            continue
        field = getattr(here, "model_fields", {}).get(part)
        here = model_in(field.annotation) if field else None
    yield from getattr(here, "model_fields", {})


def model_in(annotation: Any) -> Any:
    """The first model in `X`, `X | None`, `tuple[X, ...]`; None where there is none."""
    if hasattr(annotation, "model_fields"):
        return annotation
    inner = (model_in(each) for each in get_args(annotation))
    return next((each for each in inner if each is not None), None)
