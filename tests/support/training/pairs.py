"""Labeled pairs made in a line."""

from __future__ import annotations

from constitution.schema import Message
from rlaif.data.records import Preference


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


def varied_pairs(count: int = 8) -> list[Preference]:
    """Pairs of unlike length, labels and traits, so that an average of averages shows."""
    return [
        preference(
            10 ** (i % 4) * (i + 1),
            "Yes, please. " * (1 + i % 3),
            "No!" + "!" * (3 * i % 7),
            prob_chosen=0.55 + 0.05 * i,
            traits={"manners": 0.6 + 0.04 * i, "brevity": None if i % 3 else 0.3},
        )
        for i in range(count)
    ]


def many_pairs(count: int, first: int = 0) -> list[Preference]:
    """Any number of pairs of unlike length and label, each with a prompt of its own."""
    return [
        preference(
            i,
            "Yes, please. " * (1 + i % 3),
            "No!" + "!" * (3 * i % 7),
            prob_chosen=0.55 + 0.05 * (i % 9),
            traits={"manners": 0.6 + 0.04 * (i % 9), "brevity": None if i % 3 else 0.3},
        )
        for i in range(first, first + count)
    ]
