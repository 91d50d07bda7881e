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
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from rlaif.evaluation.intervals import Z95, Estimate, student_t
from rlaif.evaluation.logistic import Floats, information, ridge_logistic, sigmoid
from rlaif.evaluation.round_robin.strengths import PolicyStrength, SoftWin, StrengthTable

SEED_MARK = "@"


def bradley_terry(names: Sequence[str], wins: Sequence[SoftWin]) -> StrengthTable:
    """Strengths of the policies; the first of `names` is the start. No two names are equal.

    Needs 2 prompts or more for intervals.
    """
    weighted = _weighted(names, wins)
    if reason := _separation(names, weighted):
        return StrengthTable((), infinite=reason)
    x = np.zeros((len(weighted), len(names)))  # a row's log-odds are x·θ
    for i, row in enumerate(weighted):
        x[i, row.one], x[i, row.other] = 1.0, -1.0
    x = x[:, 1:]  # θ_0 = 0
    y = np.array([row.prob for row in weighted])
    weights = np.array([row.weight for row in weighted])
    fitted = ridge_logistic(x, y, weights, ridge=0.0)
    theta = [0.0, *map(float, fitted)]
    prompts = len({row.prompt for row in weighted})
    covariance = _sandwich(x, y, weights, sigmoid(x @ fitted), weighted) if prompts > 1 else None

    rows = [
        _strength(name, theta[i], _error(covariance, [i], len(names)), prompts)
        for i, name in enumerate(names)
    ]
    arms = []
    for arm, members in _arms(names).items():
        strengths = [theta[i] for i in members]
        se = _error(covariance, members, len(names))
        between = student_t(len(members) - 1) * stdev(strengths) / math.sqrt(len(members))
        spread = None if se is None else math.hypot(se, between / Z95)
        arms.append(_strength(arm, fmean(strengths), spread, prompts, len(members)))
    return StrengthTable(_ranked(rows), _ranked(arms))


def _ranked(rows: Iterable[PolicyStrength]) -> tuple[PolicyStrength, ...]:
    """Strongest first; those that differ by rounding alone stay in their order."""
    return tuple(sorted(rows, key=lambda row: -round(row.strength.value, 9)))


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
        bounds = low, high = theta - Z95 * error, theta + Z95 * error
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


def _sandwich(
    x: Floats, y: Floats, weights: Floats, prob: Floats, rows: Sequence[_WeightedWin]
) -> Floats:
    """V over θ_1 …, from the gradients of each prompt: (P - 1, P - 1)."""
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    gradients = np.zeros((len(place), x.shape[1]))
    np.add.at(gradients, [place[row.prompt] for row in rows], x * (weights * (y - prob))[:, None])
    moved = np.linalg.solve(information(x, prob, weights), gradients.T)  # H⁻¹·g_p per prompt
    return np.asarray(len(place) / (len(place) - 1) * moved @ moved.T)


def _error(covariance: Floats | None, members: Sequence[int], policies: int) -> float | None:
    """Standard error of the mean strength of these policies; θ_0 has none."""
    if covariance is None:
        return None
    share = np.zeros(policies)
    share[list(members)] = 1 / len(members)
    return math.sqrt(max(0.0, float(share[1:] @ covariance @ share[1:])))


def _sigmoid(z: float) -> float:
    return float(sigmoid(np.array(z)))
