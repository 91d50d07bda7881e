"""Means and shares with 95 % intervals. Standard library only.

Responses to one prompt are not independent, so the unit is the prompt: values are averaged within
a prompt first (`by_prompt`), and n is the number of prompts.

    share of wins, losses and ties (½)    Wilson's score interval
    any other mean                        Student's t interval
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

Z95 = NormalDist().inv_cdf(0.975)  # 1.95996: two-sided 95 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n prompts with its 95 % interval; the bounds are None where n is too small."""

    value: float
    low: float | None
    high: float | None
    n: int


def wilson(value: float, n: float) -> tuple[float, float]:
    """95 % score interval of a share `value` over n (Wilson 1927; Brown, Cai, DasGupta 2001).

    Conservative for values in [0, 1] other than 0 and 1 (ties as ½, means within a prompt): their
    variance is at most p(1 - p) (Bhatia, Davis 2000), the variance of a binary outcome. Unlike a
    bootstrap or a normal interval it does not collapse at 0 % and 100 %.
    """
    z2 = Z95 * Z95
    center = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(value * (1 - value) / n + z2 / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def student_t(degrees: int, prob: float = 0.975) -> float:
    """A quantile of Student's t: exact for 1 and 2 degrees of freedom, else within 1 % at 0.975.

    Expansion in 1/degrees: Abramowitz and Stegun 26.7.5; further out it needs more degrees (at
    0.999, 12 for 1 %).
    """
    if degrees == 1:
        return math.tan(math.pi * (prob - 0.5))
    if degrees == 2:
        return (2 * prob - 1) * math.sqrt(2 / (1 - (2 * prob - 1) ** 2))
    z, v = NormalDist().inv_cdf(prob), degrees
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def mean_estimate(
    values: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Mean with Student's t interval, clipped to [low, high]. values: one per prompt."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, max(low, mean - half), min(high, mean + half), len(values))


def share_estimate(values: Sequence[float]) -> Estimate:
    """Mean of values in [0, 1] with Wilson's interval. values: one per prompt."""
    mean = fmean(values)
    return Estimate(mean, *wilson(mean, len(values)), n=len(values))


def by_prompt(values: Iterable[tuple[Hashable, float]]) -> list[float]:
    """The mean value of each prompt, from (prompt, value) pairs."""
    groups: dict[Hashable, list[float]] = {}
    for prompt, value in values:
        groups.setdefault(prompt, []).append(value)
    return [fmean(group) for group in groups.values()]
