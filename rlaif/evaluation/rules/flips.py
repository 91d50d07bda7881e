"""McNemar's test: whether a yes-or-no measure changed between two policies, on the same prompts.

    gained    prompts whose answer was no and is yes          lost    was yes and is no
    p         = min(1, 2·P(X ≤ min(gained, lost))),  X ~ Binomial(gained + lost, ½)

The exact test (McNemar 1947; two-sided by doubling): prompts that did not change say nothing about
the direction of a change. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True, slots=True)
class Flips:
    """Prompts that changed sides, and the probability of so uneven a split if both were equally
    likely."""

    gained: int
    lost: int
    p_value: float

    @classmethod
    def between(cls, before: Mapping[str, float], now: Mapping[str, float]) -> Flips:
        """Of the prompts in both; a value is yes above ½. Values: by prompt id."""
        common = before.keys() & now.keys()
        gained = sum(before[prompt] <= 0.5 < now[prompt] for prompt in common)
        lost = sum(now[prompt] <= 0.5 < before[prompt] for prompt in common)
        return cls(gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value; 1 where nothing changed."""
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail * 0.5**changed)
