"""What a round robin gives: comparisons, and the strengths of the policies in them.

Types alone, so that results can be read without numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rlaif.evaluation.intervals import Estimate


class SoftWin(NamedTuple):
    """One judged comparison: P(the response of `one` is better than that of `other`)."""

    prompt: str  # prompt id
    one: str
    other: str
    prob: float


@dataclass(frozen=True, slots=True)
class PolicyStrength:
    """A policy's log-odds of being preferred to the start, with a 95 % interval over n prompts.

    wins_start: the same as P(better than the start); seeds: over 1 for the mean of an arm.
    """

    name: str
    strength: Estimate
    wins_start: Estimate
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class StrengthTable:
    """Strongest first, the start among them with 0. infinite: why there are no strengths, or ''.

    arms: means over the seeds of each method that has several.
    """

    policies: tuple[PolicyStrength, ...]
    arms: tuple[PolicyStrength, ...] = ()
    infinite: str = ""
