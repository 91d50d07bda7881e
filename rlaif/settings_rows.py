"""The settings of a config class as rows of words: key, type, default, description.

`rlaif train dpo --help` prints them, and docs/settings_tables.py makes tables of them. `code` marks
what is typed as it stands: `str` leaves it alone, Markdown puts it between backticks. Imports
nothing heavy.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlaif.settings import SettingsModel

WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

Code = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting. default: as it is typed, or the words "required", "below", "null", "empty"."""

    key: str
    type: str
    default: str
    description: str


def setting_rows(
    config: type[BaseModel], *, own: bool = False, code: Code = str
) -> list[SettingRow]:
    """Every setting: the class's own first, then those of each base, nearest base first.

    own: only those that the class adds to its bases, or defines anew.
    """
    choices = config.choices() if issubclass(config, SettingsModel) else {}
    names = own_names(config) if own else ordered_names(config)
    return list(_rows(config, names, choices, code))


def variant_rows(config: type[SettingsModel]) -> dict[str, list[SettingRow]]:
    """The settings that a variant adds or defines anew, by what selects it: {"loss=robust": …}."""
    own = {
        selects: list(_rows(variant, own_names(variant), {}, str))
        for selects, variant in config.variants().items()
        if variant is not config
    }
    return {selects: rows for selects, rows in own.items() if rows}


def own_names(config: type[BaseModel]) -> list[str]:
    """The fields that a class adds to those of its bases, or defines anew."""
    return [name for name in config.model_fields if name in config.__annotations__]


def ordered_names(config: type[BaseModel]) -> list[str]:
    """All fields: the class's own, then those of each base in turn."""
    bases = [base for base in config.__mro__ if issubclass(base, BaseModel) and base.model_fields]
    return list(dict.fromkeys(name for base in bases for name in own_names(base)))


def _rows(
    config: type[BaseModel],
    names: Sequence[str],
    choices: Mapping[str, Sequence[str]],
    code: Code,
    prefix: str = "",
) -> Iterator[SettingRow]:
    for name in names:
        field, key = config.model_fields[name], prefix + name
        kind = one_of(choices[name], code) if name in choices else type_words(field, code)
        yield SettingRow(key, kind, default_words(field, code), field.description or "")
        nested = nested_model(field.annotation)
        if nested is not None:
            inner = f"{key}.NAME." if get_origin(field.annotation) is dict else f"{key}."
            yield from _rows(nested, list(nested.model_fields), {}, code, inner)


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The config class inside an annotation such as `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested_model, get_args(annotation))), None)


def type_words(field: FieldInfo, code: Code = str) -> str:
    """The type with its bounds: "integer ≥ 1", "soft or hard", "number > 0, or null"."""
    limits = [
        f"{sign} {getattr(bound, key):g}"
        for key, sign in SIGNS.items()
        for bound in field.metadata
        if getattr(bound, key, None) is not None
    ]
    words, optional = _annotation_words(field.annotation, code)
    bounded = " ".join([words, ", ".join(limits)]) if limits else words
    return f"{bounded}, or null" if optional else bounded


def one_of(names: Sequence[str], code: Code = str) -> str:
    """Choices in words: "last or best", "one of auto, vllm, transformers"."""
    marked = [code(name) for name in names]
    return " or ".join(marked) if len(marked) < 3 else f"one of {', '.join(marked)}"


def _annotation_words(annotation: Any, code: Code) -> tuple[str, bool]:
    """The words of a type, and whether it may be null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return one_of(list(map(str, parts)), code), False
    if origin is Annotated:
        return _annotation_words(parts[0], code)
    if origin in (Union, types.UnionType):
        given = [part for part in parts if part is not type(None)]
        words = " or ".join(_annotation_words(part, code)[0] for part in given)
        return words, len(given) < len(parts)
    if origin is tuple:
        return f"list of: {_annotation_words(parts[0], code)[0]}", False
    if origin is dict:
        return f"names with: {_annotation_words(parts[1], code)[0]}", False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings", False
    return WORDS[annotation], False


def default_words(field: FieldInfo, code: Code = str) -> str:
    """The default as it is typed; a group of settings has its own rows below.

    A default that depends on other settings (a factory that takes them) says so itself.
    """
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return str(field.default_factory)
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "below"
    if value is None:
        return "null"
    return "empty" if value == "" else code(shown(value))


def shown(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
