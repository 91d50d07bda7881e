"""The settings of a config class as rows of words: key, type, default, description.

`rlaif train dpo --help` prints them. Imports nothing heavy.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlaif.settings import SettingsModel

WORDS = {int: "integer", float: "number", str: "text", bool: "true or false"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting. default: as it is typed, "required" where there is none."""

    key: str
    type: str
    default: str
    description: str


def setting_rows(config: type[SettingsModel]) -> list[SettingRow]:
    """Every setting: the class's own first, then those of each base, nearest base first."""
    return list(_rows(config, ordered_names(config), config.choices()))


def variant_rows(config: type[SettingsModel]) -> dict[str, list[SettingRow]]:
    """The settings that only a variant has, by the setting that selects it: {"loss=robust": …}."""
    own = {
        selects: list(_rows(variant, [n for n in variant.model_fields if n not in known], {}))
        for known in [config.model_fields]
        for selects, variant in config.variants().items()
    }
    return {selects: rows for selects, rows in own.items() if rows}


def ordered_names(config: type[BaseModel]) -> list[str]:
    """All fields: those that the class adds or defines anew, then those of each base in turn."""
    bases = [base for base in config.__mro__ if issubclass(base, BaseModel)]
    names = (name for base in bases for name in base.model_fields if name in base.__annotations__)
    return list(dict.fromkeys(names))


def _rows(
    config: type[BaseModel],
    names: Sequence[str],
    choices: Mapping[str, Sequence[str]],
    prefix: str = "",
) -> Iterator[SettingRow]:
    for name in names:
        field, key = config.model_fields[name], prefix + name
        nested = nested_model(field.annotation)
        kind = one_of(choices[name]) if name in choices else type_words(field)
        yield SettingRow(key, kind, default_words(field), field.description or "")
        if nested is not None:
            yield from _rows(nested, list(nested.model_fields), {}, f"{key}.")


def one_of(names: Sequence[str]) -> str:
    """ "last or best", "one of auto, vllm, transformers"."""
    return " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The config class inside an annotation such as `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested_model, get_args(annotation))), None)


def type_words(field: FieldInfo) -> str:
    """The type with its bounds: "integer ≥ 1", "soft or hard", "number > 0, or null"."""
    limits = [
        f"{sign} {getattr(bound, key):g}"
        for bound in field.metadata
        for key, sign in SIGNS.items()
        if getattr(bound, key, None) is not None
    ]
    words, optional = _annotation_words(field.annotation)
    bounded = " ".join([words, ", ".join(limits)]) if limits else words
    return f"{bounded}, or null" if optional else bounded


def _annotation_words(annotation: Any) -> tuple[str, bool]:
    """The words of a type, and whether it may be null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return one_of(list(map(str, parts))), False
    if origin is Annotated:
        return _annotation_words(parts[0])
    if origin in (Union, types.UnionType):
        given = [part for part in parts if part is not type(None)]
        words = " or ".join(_annotation_words(part)[0] for part in given)
        return words, len(given) < len(parts)
    if origin is tuple:
        return f"list of: {_annotation_words(parts[0])[0]}", False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings", False
    return WORDS[annotation], False


def default_words(field: FieldInfo) -> str:
    """The default as it is typed; a group of settings has its own rows below."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "below" if isinstance(value, BaseModel) else shown(value)


def shown(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return f"[{','.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
