"""Tables of settings in the guides, generated from the config classes. Run as `make docs`.

A page says where a table goes, and of which class:

    <!-- settings of rlaif.algorithms.dpo.config.DPOConfig -->
    <!-- end of settings -->

Everything between the two lines is replaced. `own settings of` leaves out what the class inherits.
The class's own settings come first, then the inherited ones, nearest base first.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

DOCS = Path(__file__).parent
BLOCK = re.compile(
    r"(?P<begin><!-- (?P<own>own )?settings of (?P<name>[\w.]+) -->\n)"
    r".*?(?P<end><!-- end of settings -->)",
    re.DOTALL,
)
HEADER = "| setting | type | default | meaning |\n|---|---|---|---|\n"
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def with_tables(page: str) -> str:
    """The page with every block filled in anew."""

    def fill(block: re.Match[str]) -> str:
        module, _, name = block["name"].rpartition(".")
        config = getattr(import_module(module), name)
        return block["begin"] + table(config, own=bool(block["own"])) + block["end"]

    return BLOCK.sub(fill, page)


def table(config: type[BaseModel], *, own: bool = False) -> str:
    """The settings of a config class as a Markdown table."""
    return HEADER + "".join(_rows(config, own_names(config) if own else ordered_names(config)))


def own_names(config: type[BaseModel]) -> list[str]:
    """The fields that a class adds to those of its bases, or defines anew."""
    return [name for name in config.model_fields if name in config.__annotations__]


def ordered_names(config: type[BaseModel]) -> list[str]:
    """All fields: the class's own, then those of each base in turn."""
    bases = [base for base in config.__mro__ if base in _models(config)]
    return list(dict.fromkeys(name for base in bases for name in own_names(base)))


def _models(config: type[BaseModel]) -> set[type[BaseModel]]:
    return {base for base in config.__mro__ if issubclass(base, BaseModel) and base.model_fields}


def _rows(config: type[BaseModel], names: list[str], prefix: str = "") -> Iterator[str]:
    for name in names:
        field, key = config.model_fields[name], prefix + name
        yield row(key, field)
        nested = nested_model(field.annotation)
        if nested is not None:
            inner = f"{key}.NAME." if get_origin(field.annotation) is dict else f"{key}."
            yield from _rows(nested, list(nested.model_fields), inner)


def row(key: str, field: FieldInfo) -> str:
    cells = [f"`{key}`", type_words(field), default_words(field), field.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The config class inside an annotation such as `LoraConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested_model, get_args(annotation))), None)


def type_words(field: FieldInfo) -> str:
    """The type with its bounds: "integer ≥ 1", "`soft` or `hard`", "number > 0, or null"."""
    limits = [
        f"{sign} {getattr(bound, key):g}"
        for key, sign in SIGNS.items()
        for bound in field.metadata
        if getattr(bound, key, None) is not None
    ]
    words, optional = _annotation_words(field.annotation)
    bounded = " ".join([words, ", ".join(limits)]) if limits else words
    return f"{bounded}, or null" if optional else bounded


def _annotation_words(annotation: Any) -> tuple[str, bool]:
    """The words of a type, and whether it may be null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts), False
    if origin is Annotated:
        return _annotation_words(parts[0])
    if origin in (Union, types.UnionType):
        given = [part for part in parts if part is not type(None)]
        words = " or ".join(_annotation_words(part)[0] for part in given)
        return words, len(given) < len(parts)
    if origin is tuple:
        return f"list of: {_annotation_words(parts[0])[0]}", False
    if origin is dict:
        return f"names with: {_annotation_words(parts[1])[0]}", False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings", False
    return WORDS[annotation], False


def default_words(field: FieldInfo) -> str:
    """The default as it is written in YAML; a group of settings is given by its own rows."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "below"
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value == "":
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def main() -> None:
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        fresh = with_tables(page)
        if fresh != page:
            path.write_text(fresh, encoding="utf-8")
            print(f"{path.relative_to(DOCS.parent)}: settings regenerated")


if __name__ == "__main__":
    main()
