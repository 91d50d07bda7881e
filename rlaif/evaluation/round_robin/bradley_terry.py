"""Strengths of policies from comparisons of all with all: Bradley-Terry with soft wins.

    P(i better than j) = s(θ_i - θ_j),   θ_start = 0                  Bradley, Terry 1952
    θ maximizes  Σ w·[y·ln s(θ_i - θ_j) + (1 - y)·ln s(θ_j - θ_i)]
    s     the logistic function, 1/(1 + exp(-z))
    y     the judge's P(response of i better than that of j), in [0, 1]; 1 and 0 are plain wins
    w     1 / comparisons of i with j on the prompt: a prompt counts once for every two policies

    V = H⁻¹·(P/(P-1)·Σ_p g_p·g_pᵀ)·H⁻¹       sandwich, clustered by prompt (Liang, Zeger 1986)
    H     minus the Hessian of the sum;  g_p  its gradient over the comparisons on prompt p

One prompt gives many comparisons, of the same responses: they are not independent, and standard
errors that take them to be so are too small. The sandwich also holds where y are probabilities, or
where Bradley-Terry is not quite true of the judge.

Strengths are finite only if no group of policies won all, with y = 1, against all others (Ford
1957). If one did, there are none, and `infinite` says so in words: a penalty would make up a
number that the comparisons do not hold.

Several seeds of one method are policies of their own, `NAME@SEED`; `arms` averages them:

    θ_arm = mean of its S seeds,  half² = (1.96·se)² + (t_{S-1}·d/√S)²
    se    of that mean, from V: over prompts;  d  standard deviation of the seeds' strengths

so that the interval is for another seed and other prompts, on the safe side: d has a part of the
uncertainty over prompts in it, too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from rlaif.evaluation.intervals import Estimate, student_t

SEED_MARK = "@"
_Z = NormalDist().inv_cdf(0.975)
_Matrix = list[list[float]]


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


def bradley_terry(names: Sequence[str], wins: Sequence[SoftWin]) -> StrengthTable:
    """Strengths of the policies; the first of `names` is the start. No two names are equal.

    Needs 2 prompts or more for intervals.
    """
    weighted = _weighted(names, wins)
    if reason := _separation(names, weighted):
        return StrengthTable((), infinite=reason)
    theta, hessian = _fit(len(names), weighted)
    prompts = len({row.prompt for row in weighted})
    covariance = _sandwich(theta, hessian, weighted) if prompts > 1 else None

    rows = [
        _strength(name, theta[i], _error(covariance, {i: 1.0}), prompts)
        for i, name in enumerate(names)
    ]
    arms = []
    for arm, members in _arms(names).items():
        strengths = [theta[i] for i in members]
        se = _error(covariance, dict.fromkeys(members, 1 / len(members)))
        between = student_t(len(members) - 1) * stdev(strengths) / math.sqrt(len(members))
        spread = None if se is None else math.hypot(se, between / _Z)
        arms.append(_strength(arm, fmean(strengths), spread, prompts, len(members)))
    return StrengthTable(_ranked(rows), _ranked(arms))


def _ranked(rows: Iterable[PolicyStrength]) -> tuple[PolicyStrength, ...]:
    return tuple(sorted(rows, key=lambda row: -row.strength.value))


def _arms(names: Sequence[str]) -> dict[str, list[int]]:
    """Method → places of its seeds, for those with several."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        arm, mark, _ = name.rpartition(SEED_MARK)
        if mark:
            members[arm].append(i)
    return {arm: places for arm, places in members.items() if len(places) > 1}


def _strength(
    name: str, theta: float, error: float | None, prompts: int, seeds: int = 1
) -> PolicyStrength:
    if error is None:
        bounds: tuple[float | None, float | None] = (None, None)
        shares = bounds
    else:
        bounds = low, high = theta - _Z * error, theta + _Z * error
        shares = (_sigmoid(low), _sigmoid(high))
    return PolicyStrength(
        name,
        Estimate(theta, *bounds, n=prompts),
        Estimate(_sigmoid(theta), *shares, n=prompts),
        seeds,
    )


# ── fitting ──────────────────────────────────────────────────────────────────────────────────


class _WeightedWin(NamedTuple):
    prompt: str
    one: int
    other: int
    prob: float
    weight: float


def _weighted(names: Sequence[str], wins: Sequence[SoftWin]) -> list[_WeightedWin]:
    place = {name: i for i, name in enumerate(names)}
    counts: dict[tuple[str, frozenset[str]], int] = defaultdict(int)
    for win in wins:
        counts[win.prompt, frozenset((win.one, win.other))] += 1
    return [
        _WeightedWin(
            win.prompt,
            place[win.one],
            place[win.other],
            win.prob,
            1 / counts[win.prompt, frozenset((win.one, win.other))],
        )
        for win in wins
    ]


def _separation(names: Sequence[str], rows: Sequence[_WeightedWin]) -> str:
    """Why no finite strengths exist, or "": the graph of wins must be strongly connected."""
    beats: dict[int, set[int]] = defaultdict(set)
    beaten_by: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        if row.prob > 0:
            beats[row.one].add(row.other)
            beaten_by[row.other].add(row.one)
        if row.prob < 1:
            beats[row.other].add(row.one)
            beaten_by[row.one].add(row.other)
    everyone = set(range(len(names)))
    for reached, what in (
        (_reached(0, beats), "always won against"),
        (_reached(0, beaten_by), "always lost against"),
    ):
        if rest := everyone - reached:
            first = ", ".join(names[i] for i in sorted(rest))
            others = ", ".join(names[i] for i in sorted(reached))
            return (
                f"no finite strengths: {first} {what} {others}, or was never compared; "
                "compare on more prompts"
            )
    return ""


def _reached(start: int, edges: Mapping[int, set[int]]) -> set[int]:
    found, waiting = {start}, [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def _fit(count: int, rows: Sequence[_WeightedWin]) -> tuple[list[float], _Matrix]:
    """(θ with θ_0 = 0, minus the Hessian over θ_1 …), by Newton's method with halved steps."""
    totals: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:  # Σw·y and Σw of every two policies are all that the fit depends on
        total = totals[row.one, row.other]
        total[0] += row.weight * row.prob
        total[1] += row.weight
    theta = [0.0] * count
    best = _likelihood(theta, totals)
    for _ in range(100):
        gradient = [0.0] * count
        for (one, other), (won, weight) in totals.items():
            slope = won - weight * _sigmoid(theta[one] - theta[other])
            gradient[one] += slope
            gradient[other] -= slope
        step = [0.0, *_times(_inverse(_information(theta, totals)), gradient[1:])]
        size = 1.0
        while True:
            moved = [t + size * s for t, s in zip(theta, step, strict=True)]
            if (new := _likelihood(moved, totals)) >= best or size < 1e-6:
                break
            size /= 2
        theta, best = moved, max(best, new)
        if max(map(abs, step)) < 1e-10:
            break
    return theta, _information(theta, totals)


def _likelihood(theta: Sequence[float], totals: Mapping[tuple[int, int], Sequence[float]]) -> float:
    total = 0.0
    for (one, other), (won, weight) in totals.items():
        z = theta[one] - theta[other]
        total += won * z - weight * (max(z, 0.0) + math.log1p(math.exp(-abs(z))))
    return total


def _information(
    theta: Sequence[float], totals: Mapping[tuple[int, int], Sequence[float]]
) -> _Matrix:
    size = len(theta) - 1
    matrix = [[0.0] * size for _ in range(size)]
    for (one, other), (_, weight) in totals.items():
        q = _sigmoid(theta[one] - theta[other])
        curve = weight * q * (1 - q)
        for i, j in ((one, one), (other, other)):
            if i:
                matrix[i - 1][j - 1] += curve
        if one and other:
            matrix[one - 1][other - 1] -= curve
            matrix[other - 1][one - 1] -= curve
    return matrix


def _sandwich(
    theta: Sequence[float], information: _Matrix, rows: Sequence[_WeightedWin]
) -> _Matrix:
    """V over θ_1 …, from the gradients of each prompt."""
    size = len(theta) - 1
    scores: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(theta))
    for row in rows:
        slope = row.weight * (row.prob - _sigmoid(theta[row.one] - theta[row.other]))
        scores[row.prompt][row.one] += slope
        scores[row.prompt][row.other] -= slope
    bread = _inverse(information)
    # H⁻¹·g_p per prompt; V is the sum of their outer products
    moved = [_times(bread, score[1:]) for score in scores.values()]
    factor = len(moved) / (len(moved) - 1)
    return [
        [factor * math.fsum(m[i] * m[j] for m in moved) for j in range(size)] for i in range(size)
    ]


def _error(covariance: _Matrix | None, weights: Mapping[int, float]) -> float | None:
    """Standard error of Σ weight·θ; θ_0 has none."""
    if covariance is None:
        return None
    free = [(i - 1, weight) for i, weight in weights.items() if i]
    return math.sqrt(
        max(0.0, math.fsum(a * b * covariance[i][j] for i, a in free for j, b in free))
    )


def _inverse(matrix: _Matrix) -> _Matrix:
    """Gauss-Jordan with pivoting; the matrix is positive definite."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = rows[column][column]
        rows[column] = [value / scale for value in rows[column]]
        for r in range(size):
            if r != column and rows[r][column]:
                factor = rows[r][column]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[column], strict=True)]
    return [row[size:] for row in rows]


def _times(matrix: _Matrix, vector: Sequence[float]) -> list[float]:
    return [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))
