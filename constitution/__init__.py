"""The law: YAML in, typed principles out. Knows neither the judge nor training."""

from constitution.errors import ConstitutionError
from constitution.schema import Constitution, Example, Message, Principle, Scope, Trait

__all__ = [
    "Constitution",
    "ConstitutionError",
    "Example",
    "Message",
    "Principle",
    "Scope",
    "Trait",
]
