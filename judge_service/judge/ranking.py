"""Pair probabilities become strengths of N candidates (Bradley-Terry). Pure.

    P(i better than j) = sigmoid(s_i - s_j)
    maximize  sum over pairs [ p_ij log sigmoid(s_i - s_j) + (1 - p_ij) log sigmoid(s_j - s_i) ]
              - PRIOR / 2 * sum_i s_i^2

p_ij is the judge's soft label. Only differences of strengths are observed; the prior, which also
keeps a candidate that wins every pair at a finite strength, makes their mean zero. It counts for
little: two candidates with p = 0.731 come out 0.997 apart instead of 1.
Standard errors are of a strength against the mean of all: the diagonal of the inverse of the
observed information (the negated Hessian at the maximum), each pair taken as one observation.

Left out: ties as outcomes of their own, and a judge's noise estimated from the order gap.
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

    All of them up to 8 candidates. Above, a seeded sparse design: the candidates stand in a
    shuffled circle and each meets its neighbors at distance 1 to d, so each is in 2 d pairs, at
    least ceil(log2 N) + 1, and the circle connects all.
    """
    if candidates <= ALL_PAIRS_UP_TO:
        return tuple((i, j) for i in range(candidates) for j in range(i + 1, candidates))
    circle = list(range(candidates))
    random.Random(hashlib.sha256(f"{seed} {candidates}".encode()).digest()).shuffle(circle)
    farthest = math.ceil((math.ceil(math.log2(candidates)) + 1) / 2)
    pairs = {
        (min(a, b), max(a, b))
        for place, a in enumerate(circle)
        for b in (circle[(place + d) % candidates] for d in range(1, farthest + 1))
    }
    return tuple(sorted(pairs))


def rank_candidates(candidates: int, outcomes: Sequence[Outcome]) -> tuple[RankedCandidate, ...]:
    """The candidates that outcomes connect, best first; equal strengths share a rank.

    Strengths are comparable only where pairs connect them: of several unconnected groups the
    largest is ranked (the one with the lowest index of equally large ones) and the others are
    left out. No outcome, no ranking: ().
    """
    group = _largest_group(candidates, outcomes)
    if len(group) < 2:
        return ()
    place = {candidate: k for k, candidate in enumerate(group)}
    within = [(place[i], place[j], p) for i, j, p in outcomes if i in place]
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
    # The direction (1, ..., 1) is not observed and not asked for: take its variance out.
    covariance = np.linalg.inv(information) - 1.0 / (PRIOR * candidates)
    return strengths - strengths.mean(), np.sqrt(np.diag(covariance))


def _largest_group(candidates: int, outcomes: Sequence[Outcome]) -> list[int]:
    """The largest set of candidates that outcomes connect, sorted."""
    group_of = list(range(candidates))
    for i, j, _ in outcomes:
        old, new = group_of[j], group_of[i]
        group_of = [new if g == old else g for g in group_of]
    groups = [[c for c in range(candidates) if group_of[c] == g] for g in dict.fromkeys(group_of)]
    return max(groups, key=len, default=[])
