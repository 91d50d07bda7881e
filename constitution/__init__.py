"""The law: YAML in, typed principles out. Knows neither the judge nor training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from constitution.errors import ConstitutionError

if TYPE_CHECKING:
    from constitution.schema import Constitution, Example, Message, Principle, Scope, Trait

DEFAULT_CONSTITUTION = "overall"
"""The constitution where nobody names one: a single principle, so two reads a label, and no worse
than the sixteen of `hhh` with the judge that ships (docs/log.md)."""

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
