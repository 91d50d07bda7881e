"""Calibration metrics of probabilities, from q = P(chosen is better) of each gold pair. Pure.

    accuracy     mean of [q > 1/2], a tie counts half
    NLL          mean of -log q                      log 2 without information
    Brier        mean of (1 - q)²                    1/4 without information
    ECE          Σ_b n_b / n |accuracy_b - confidence_b|     Eq. 3, arXiv 1706.04599

A pair's confidence is max(q, 1 - q), from ½ to 1; the bins b have equal width or (adaptive) equal
mass. With few pairs the ECE is biased upward, as noise within a bin counts as error: for 200 pairs
with evenly spread, perfectly calibrated probabilities it is 0.07. `chance_ece` gives this bias.
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

EPSILON = 1e-6  # probabilities are kept within [EPSILON, 1 - EPSILON] where a logarithm is taken
BINS = 10


def clipped(prob: float) -> float:
    """The probability within [EPSILON, 1 - EPSILON], whose logarithm is finite."""
    return min(max(prob, EPSILON), 1.0 - EPSILON)


def confidence(q: float) -> float:
    """How sure the judge is, right or wrong: from ½ (a tie) to 1."""
    return max(q, 1.0 - q)


def right(q: float) -> float:
    """1 when the judge prefers the chosen response, 0 when the rejected one; 0.5 for a tie."""
    return 0.5 if q == 0.5 else float(q > 0.5)


def accuracy(probs: Sequence[float]) -> float:
    """Share of gold pairs whose chosen response the judge prefers; a tie counts half."""
    return fmean(map(right, probs))


def nll(probs: Sequence[float]) -> float:
    """Negative log-likelihood in nats: mean of -log q."""
    return -fmean(math.log(clipped(q)) for q in probs)


def brier(probs: Sequence[float]) -> float:
    """Mean of (1 - q)² (Brier 1950, counted for one of the two outcomes)."""
    return fmean((1.0 - q) ** 2 for q in probs)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pairs of similar confidence max(q, 1 - q): how confident the judge was, how often right."""

    n: int
    confidence: float  # mean over the bin, in [0.5, 1]
    accuracy: float  # share of them whose chosen response it prefers; a tie counts half


def equal_width_bins(probs: Sequence[float], bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The non-empty bins, of `bins` between ½ and 1; each includes its upper edge."""
    groups: list[list[float]] = [[] for _ in range(bins)]
    for q in probs:
        groups[bin_of(q, bins)].append(q)
    return tuple(_bin(group) for group in groups if group)


def bin_of(q: float, bins: int = BINS) -> int:
    """Index of the equal-width bin of q, from 0."""
    return bisect_left(_edges(bins), confidence(q))


@cache
def _edges(bins: int) -> list[float]:
    return [0.5 + 0.5 * i / bins for i in range(1, bins)]


def equal_mass_bins(probs: Sequence[float], bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """At most `bins` bins of at least n / bins pairs each, except the last.

    Pairs of equal confidence share a bin, so the order of the pairs does not matter.
    """
    by_confidence = itertools.groupby(sorted(probs, key=confidence), key=confidence)
    filled: list[ReliabilityBin] = []
    group: list[float] = []
    for _, same in by_confidence:
        group += same
        if len(group) * bins >= len(probs):
            filled.append(_bin(group))
            group = []
    return tuple([*filled, _bin(group)] if group else filled)


def _bin(group: Sequence[float]) -> ReliabilityBin:
    return ReliabilityBin(len(group), fmean(map(confidence, group)), accuracy(group))


def ece(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error of binned pairs."""
    return math.fsum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)


def chance_ece(probs: Sequence[float], seed: int, draws: int = 200) -> float:
    """The mean ECE (equal width) that pairs of these confidences have if perfectly calibrated."""
    rng = random.Random(seed)
    by_bin: dict[int, list[float]] = {}
    for q in probs:
        by_bin.setdefault(bin_of(q), []).append(confidence(q))
    total = 0.0
    for _ in range(draws):
        gaps = (sum((rng.random() < c) - c for c in group) for group in by_bin.values())
        total += sum(map(abs, gaps))
    return total / (draws * len(probs))


@dataclass(frozen=True, slots=True)
class CalibrationMetrics:
    """Metrics of gold pairs, from `measure`; lower is better for all but accuracy."""

    accuracy: float
    ece: float  # equal-width bins
    adaptive_ece: float  # equal-mass bins (arXiv 1508.05154)
    brier: float
    nll: float


def measure(probs: Sequence[float]) -> CalibrationMetrics:
    """The metrics of gold pairs, from q of each; at least one."""
    return CalibrationMetrics(
        accuracy=accuracy(probs),
        ece=ece(equal_width_bins(probs)),
        adaptive_ece=ece(equal_mass_bins(probs)),
        brier=brier(probs),
        nll=nll(probs),
    )
