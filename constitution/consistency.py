"""What names and weights may be, and what a constitution's parts must satisfy together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from constitution.errors import nearest

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.001, 1000.0
_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def is_slug(value: str) -> bool:
    """Whether the text can be a name: lower-case letters, digits, '_' and '-', a letter first."""
    return _SLUG.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Parts that are valid by themselves but not together; `path` locates the part to fix."""

    path: tuple[str | int, ...]
    message: str
    remedy: str


def inconsistencies(
    traits: Iterable[str], principles: Sequence[tuple[str, str]]
) -> Iterator[Inconsistency]:
    """Duplicate ids, principles of unknown traits, and traits without principles.

    `principles` holds the (id, trait) of each; "" stands for a value that could not be read.
    """
    known = set(traits)
    served = {trait for _, trait in principles}
    seen: set[str] = set()
    unknown = 0
    for index, (name, trait) in enumerate(principles):
        if name and name in seen:
            message = f"duplicate principle id '{name}'"
            remedy = "give each principle its own id"
            yield Inconsistency(("principles", index, "id"), message, remedy)
        seen.add(name)
        if trait and trait not in known:
            guess = nearest(trait, sorted(known)) if unknown < 3 else ""  # guessing is slow
            remedy = guess or "declare it under 'traits'"
            unknown += 1
            path = ("principles", index, "trait")
            yield Inconsistency(path, f"unknown trait '{trait}'", remedy)
    if served <= known:  # else a trait may lack a principle because its name was mistyped there
        for trait in sorted(known - served):
            message = f"no principle serves the trait '{trait}'"
            remedy = "write a principle for it, or delete the trait"
            yield Inconsistency(("traits", trait), message, remedy)
