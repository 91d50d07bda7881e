"""Bradley-Terry strengths of N candidates from pair probabilities. Pure.

    P(i better than j) = sigmoid(s_i - s_j)
    maximize  sum over pairs [ p_ij log sigmoid(s_i - s_j) + (1 - p_ij) log sigmoid(s_j - s_i) ]
              - PRIOR / 2 * sum_i s_i^2

p_ij is the judge's soft label. Only differences of strengths are identified; the prior sets their
mean to zero and keeps a candidate that wins every pair finite. Its effect is small: two candidates
with p = 0.731 come out 0.997 apart instead of 1.
Standard errors are those of a strength relative to the mean of all: the diagonal of the inverse
observed information (the negated Hessian at the maximum), each pair counted as one observation.

Left out: ties as a separate outcome, and an estimate of the judge's noise from the order gap.
Sources: Bradley & Terry 1952; Hunter, "MM algorithms for generalized Bradley-Terry models" (2004).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from judge_service.types import RankedCandidate

Outcome = tuple[int, int, float]
"""(i, j, P(candidate i is better than candidate j))."""

PRIOR = 1e-3
"""Inverse variance of the normal prior on a strength: a standard deviation of 32 log-odds."""

ALL_PAIRS_UP_TO = 8
_NEWTON_STEPS = 200
_TOLERANCE = 1e-10
_SAME_STRENGTH = 1e-9

Array = NDArray[np.float64]


def design_pairs(candidates: int, seed: int) -> tuple[tuple[int, int], ...]:
    """Which pairs (i < j) to judge.

    Up to 8 candidates, all pairs. Above, a seeded sparse design: the candidates form a shuffled
    circle and each is paired with its neighbors at distances 1 to d, so each is in 2 d pairs, at
    least ceil(log2 N) + 1, and the circle connects all.
    """
    if candidates <= ALL_PAIRS_UP_TO:
        return tuple((i, j) for i in range(candidates) for j in range(i + 1, candidates))
    circle = list(range(candidates))
    random.Random(hashlib.sha256(f"{seed} {candidates}".encode()).digest()).shuffle(circle)
    farthest = math.ceil((math.ceil(math.log2(candidates)) + 1) / 2)
    pairs = {
        (min(a, b), max(a, b))
        for position, a in enumerate(circle)
        for b in (circle[(position + d) % candidates] for d in range(1, farthest + 1))
    }
    return tuple(sorted(pairs))


def rank_candidates(candidates: int, outcomes: Sequence[Outcome]) -> tuple[RankedCandidate, ...]:
    """Candidates best first; equal strengths share a rank.

    Strengths are comparable only between candidates that pairs connect: of several unconnected
    groups the largest is ranked (of equally large ones, that with the lowest index) and the others
    are left out. Without outcomes the ranking is empty: ().
    """
    group = _largest_group(candidates, outcomes)
    if len(group) < 2:
        return ()
    index_of = {candidate: k for k, candidate in enumerate(group)}
    within = [(index_of[i], index_of[j], p) for i, j, p in outcomes if i in index_of]
    strengths, errors = fit_strengths(len(group), within)
    best_first = sorted(range(len(group)), key=lambda k: (-strengths[k], k))
    ranked: list[RankedCandidate] = []
    for position, k in enumerate(best_first, start=1):
        tied = ranked and ranked[-1].strength - strengths[k] < _SAME_STRENGTH
        rank = ranked[-1].rank if tied else position
        ranked.append(RankedCandidate(group[k], rank, float(strengths[k]), float(errors[k])))
    return tuple(ranked)


def fit_strengths(candidates: int, outcomes: Sequence[Outcome]) -> tuple[Array, Array]:
    """(log-strengths with mean 0, their standard errors), each (candidates,), by Newton's method.

    The outcomes must connect all candidates.
    """
    first = np.array([i for i, _, _ in outcomes])
    second = np.array([j for _, j, _ in outcomes])
    prob = np.array([p for _, _, p in outcomes], dtype=np.float64)
    strengths = np.zeros(candidates)
    information = np.eye(candidates)

    # Newton's method on the concave log-posterior of the module's equations.
    for _ in range(_NEWTON_STEPS):
        expected = np.exp(-np.logaddexp(0.0, strengths[second] - strengths[first]))
        gradient = -PRIOR * strengths
        np.add.at(gradient, first, prob - expected)
        np.add.at(gradient, second, expected - prob)
        information = PRIOR * np.eye(candidates)
        variance = expected * (1.0 - expected)
        for i, j, v in zip(first, second, variance, strict=True):
            information[[i, j], [i, j]] += v
            information[[i, j], [j, i]] -= v
        step = np.linalg.solve(information, gradient)
        largest = float(np.abs(step).max())
        if largest < _TOLERANCE:
            break
        strengths += step * min(1.0, 1.0 / largest)  # at most one log-odds at a time

    # Only the prior constrains the direction (1, ..., 1): remove its variance from the errors.
    covariance = np.linalg.inv(information) - 1.0 / (PRIOR * candidates)
    return strengths - strengths.mean(), np.sqrt(np.diag(covariance))


def _largest_group(candidates: int, outcomes: Sequence[Outcome]) -> list[int]:
    """The largest connected set of candidates, sorted."""
    group_of = list(range(candidates))
    for i, j, _ in outcomes:
        old, new = group_of[j], group_of[i]
        group_of = [new if g == old else g for g in group_of]
    groups = [[c for c in range(candidates) if group_of[c] == g] for g in dict.fromkeys(group_of)]
    return max(groups, key=len, default=[])
