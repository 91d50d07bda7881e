"""Intervals (95 %) of weighted means whose values are alike within a cluster, such as a prompt.

    m = Σ w_i x_i / Σ w_i
    var(m) = C/(C-1) · Σ_c (Σ_{i in c} w_i (x_i - m))² / (Σ w_i)²      C clusters

The linearized variance of a ratio (Cochran, Sampling Techniques, 1977, section 11.8; the sandwich
of Liang and Zeger 1986). Unlike the mean over prompts of intervals.py, m is the mean over the
values themselves, as leaderboards compute it.

    a share in [0, 1]    Wilson's interval with the effective size n* = N/(N-1) · m(1-m) / var(m),
                         at most N, the number of values (N over the design effect; Korn and
                         Graubard 1998 use it with an exact interval); at 0 and 1, where the
                         variance says nothing, n* is the number of clusters
    any other mean       Student's t with C - 1 degrees of freedom
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rlaif.evaluation.intervals import Estimate, student_t, wilson


def clustered_share(
    values: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None = None
) -> Estimate:
    """Weighted mean of values in [0, 1] with its interval; n is the number of clusters.

    weights: positive, equal by default. values, clusters and weights are of the same length, at
    least 1.
    """
    mean, variance, n = _moments(values, clusters, weights)
    effective = float(n)
    if variance > 0 and 0 < mean < 1:
        size = len(values)
        effective = min(size / (size - 1) * mean * (1 - mean) / variance, float(size))
    return Estimate(mean, *wilson(mean, effective), n=n)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None = None
) -> Estimate:
    """Weighted mean of any values with its interval; no bounds for a single cluster."""
    mean, variance, n = _moments(values, clusters, weights)
    if n < 2:
        return Estimate(mean, None, None, n)
    half = student_t(n - 1) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def _moments(
    values: Sequence[float], clusters: Sequence[Hashable], weights: Sequence[float] | None
) -> tuple[float, float, int]:
    """(m, var(m), C) of the module's equations; the variance is 0 for a single cluster."""
    w = [1.0] * len(values) if weights is None else weights
    total = math.fsum(w)
    mean = math.fsum(wi * x for wi, x in zip(w, values, strict=True)) / total
    sums: dict[Hashable, float] = defaultdict(float)
    for cluster, wi, x in zip(clusters, w, values, strict=True):
        sums[cluster] += wi * (x - mean)
    n = len(sums)
    if n < 2:
        return mean, 0.0, n
    variance = n / (n - 1) * math.fsum(s * s for s in sums.values()) / total**2
    return mean, variance, n


@dataclass(frozen=True, slots=True)
class FittedLine:
    """y = intercept + slope·x by weighted least squares, the slope with its clustered interval."""

    intercept: float
    slope: Estimate


def clustered_line(
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
) -> FittedLine | None:
    """Fit the line; None where x does not vary.

    With e_i the residual and z_i = x_i - mean(x): slope = Σ w z y / Σ w z², and its variance
    C/(C-1) · Σ_c (Σ_{i in c} w_i z_i e_i)² / (Σ w z²)².
    """
    w = [1.0] * len(x) if weights is None else weights
    total = math.fsum(w)
    mean_x = math.fsum(wi * xi for wi, xi in zip(w, x, strict=True)) / total
    mean_y = math.fsum(wi * yi for wi, yi in zip(w, y, strict=True)) / total
    spread = math.fsum(wi * (xi - mean_x) ** 2 for wi, xi in zip(w, x, strict=True))
    if spread <= 1e-12 * total:
        return None
    slope = math.fsum(
        wi * (xi - mean_x) * (yi - mean_y) for wi, xi, yi in zip(w, x, y, strict=True)
    )
    slope /= spread
    sums: dict[Hashable, float] = defaultdict(float)
    for cluster, wi, xi, yi in zip(clusters, w, x, y, strict=True):
        sums[cluster] += wi * (xi - mean_x) * (yi - mean_y - slope * (xi - mean_x))
    n, intercept = len(sums), mean_y - slope * mean_x
    if n < 3:
        return FittedLine(intercept, Estimate(slope, None, None, n))
    variance = n / (n - 1) * math.fsum(s * s for s in sums.values()) / spread**2
    half = student_t(n - 1) * math.sqrt(variance)
    return FittedLine(intercept, Estimate(slope, slope - half, slope + half, n))


def folds_by_prompt(prompts: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold of each item, given its prompt: folds of similar size, no prompt in two of them."""
    sizes = Counter(prompts)
    shuffled = sorted(sizes)
    random.Random(seed).shuffle(shuffled)
    items_in_fold = [0] * folds
    fold_of = {}
    for prompt in shuffled:
        fold_of[prompt] = items_in_fold.index(min(items_in_fold))
        items_in_fold[fold_of[prompt]] += sizes[prompt]
    return [fold_of[prompt] for prompt in prompts]
