"""Labelled pairs made in a line."""

from __future__ import annotations

from constitution.schema import Message
from rlaif.records import Preference


def preference(
    number: int,
    chosen: str,
    rejected: str,
    prob_chosen: float = 0.9,
    traits: dict[str, float | None] | None = None,
) -> Preference:
    return Preference(
        id=f"pair-{number}",
        prompt=(Message(role="user", content=f"Question {number}?"),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=prob_chosen,
        traits=traits or {},
    )
