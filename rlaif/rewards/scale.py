"""Standardization of scores that have no scale of their own.

    z = (s - mean) / sd      mean = Σ s / n,   sd = √(Σ (s - mean)² / (n - 1))

mean and sd are estimated once, on a run's first scores, and kept: a score must mean the same in
every iteration. Trainers' defaults (kl_coef, missing_eos_penalty, value_clip) are in standard
deviations of the score, which is what a reward model gives. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A spread below this share of the largest score is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of a source's scores, both in units of the score."""

    mean: float
    sd: float

    def standardized(self, score: float) -> float:
        """The score in standard deviations from the mean. Example: Scale(2, .5): 3 → 2."""
        return (score - self.mean) / self.sd


def estimate_scale(scores: Sequence[float]) -> Scale | None:
    """Mean and unbiased standard deviation; None for fewer than two scores, or equal ones.

    Independent of the order of the scores (sums are exact), so of the number of processes.
    """
    if len(scores) < 2:
        return None
    mean = math.fsum(scores) / len(scores)
    sd = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
    return Scale(mean, sd) if sd > ROUNDING * max(map(abs, scores)) else None
