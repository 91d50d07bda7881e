"""Constitutions: YAML in, typed principles out. Imports neither the judge nor training code.

schema.py        Constitution and its parts, validated on construction; the content digest
loader.py        YAML text or file → Constitution; every error with line, column and remedy
validation.py    pydantic's errors of settings, tokens and records as messages; constitutions have
                 theirs in loader.py
consistency.py   names, the range of weights, and checks across parts: duplicate ids, unknown traits
strict_yaml.py   the YAML subset that constitutions use, with the position of every value
writer.py        Constitution → YAML
template.py      a new constitution to edit: a copy of another one, or the starter
errors.py        UserError, ConstitutionError, Diagnostic, and how to install extras
lint/            checks of constitutions that load but could judge better
library/         the constitutions that ship, one YAML file each
starter.yaml     the annotated constitution that `rlaif constitution new` writes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from constitution.errors import ConstitutionError

if TYPE_CHECKING:
    from constitution.schema import Constitution, Example, Message, Principle, Scope, Trait

DEFAULT_CONSTITUTION = "overall"
"""The constitution used when none is named: a single principle, so two reads per label, and, with
the default judge model, no worse than the sixteen of `hhh` (docs/log.md)."""

__all__ = [
    "DEFAULT_CONSTITUTION",
    "Constitution",
    "ConstitutionError",
    "Example",
    "Message",
    "Principle",
    "Scope",
    "Trait",
]


def __getattr__(name: str) -> Any:
    """Import the schema (and pydantic) on first use: `rlaif --help` needs neither."""
    if name in __all__:
        from constitution import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
