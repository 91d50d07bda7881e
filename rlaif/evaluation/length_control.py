"""Length-controlled win rate: what the judge would say if both responses were equally long.

    P(policy wins) = sigmoid(θ + φ·x),   x = tanh(gap / s)        Eq. 1, arXiv:2404.04475
    length-controlled win rate = sigmoid(θ)                       x = 0: no difference in length

    gap    length of the policy's response less that of the start's, in characters
    s      standard deviation of the gaps
    θ, φ   maximize Σ w·[y·log q + (1-y)·log(1-q)] - φ²/(2·RIDGE²),  q = P(policy wins)
    y      1 won, ½ tie, 0 lost, as in the win rate
    w      1 / judged responses of the prompt: every prompt counts once, as in the win rate

So without any difference in length it is the win rate, and swapping the sides gives 1 less it. The
weak prior on φ (θ has none) keeps φ finite where length decides every verdict; there θ is little
more than a guess, since no verdict shows anything but length. Interval: 2.5 % and 97.5 % of a
bootstrap over prompts, seeded, widened to Wilson's of the same share where that is wider: with few
prompts or many ties resamples hardly differ, and controlling for length does not make one surer.

Left out of AlpacaEval's model: the difficulty of each prompt (fitted there over many policies).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from rlaif.evaluation.intervals import Estimate, wilson

RIDGE = 2.5  # prior standard deviation of φ, log-odds (Gelman et al. 2008: weakly informative)
RESAMPLES = 1000
SEED = 0


class Duel(NamedTuple):
    """One judged comparison with the start."""

    prompt: str
    point: float  # 1 won, ½ tie, 0 lost
    gap: float  # characters


class _Row(NamedTuple):
    y: float
    x: float
    weight: float


class _Fit(NamedTuple):
    theta: float
    phi: float


def length_controlled_win_rate(duels: Sequence[Duel]) -> Estimate | None:
    """sigmoid(θ) above; None when nothing was judged.

    None too when every gap is the same and not 0: then no comparison tells what length does.
    """
    if not duels:
        return None
    scale = pstdev(duel.gap for duel in duels)
    if scale == 0 and duels[0].gap != 0:
        return None
    groups: dict[str, list[Duel]] = {}
    for duel in duels:
        groups.setdefault(duel.prompt, []).append(duel)
    prompts = [
        [_Row(d.point, math.tanh(d.gap / scale) if scale else 0.0, 1 / len(group)) for d in group]
        for group in groups.values()
    ]
    whole = _fit([row for prompt in prompts for row in prompt], _Fit(0.0, 0.0))
    value = _sigmoid(whole.theta)
    lows, highs = zip(_bootstrap(prompts, whole), wilson(value, len(prompts)), strict=True)
    return Estimate(value, min(lows), max(highs), len(prompts))


def _bootstrap(prompts: Sequence[Sequence[_Row]], whole: _Fit) -> tuple[float, float]:
    """95 % percentile interval over prompts drawn anew (Efron 1979)."""
    rng = random.Random(SEED)
    found = sorted(
        _sigmoid(_fit([row for p in rng.choices(prompts, k=len(prompts)) for row in p], whole)[0])
        for _ in range(RESAMPLES)
    )
    edge = round(0.025 * RESAMPLES)
    return found[edge], found[-1 - edge]


def _fit(rows: Sequence[_Row], start: _Fit) -> _Fit:
    """Newton's method; a step that does not raise the penalized likelihood is halved."""
    mean = fmean(row.y for row in rows)
    if mean in (0.0, 1.0):  # θ has no prior: it goes to where the win rate is
        return _Fit(math.copysign(math.inf, mean - 0.5), 0.0)
    theta, phi = start
    best = _likelihood(rows, theta, phi)
    for _ in range(50):
        d_theta, d_phi = _newton_step(rows, theta, phi)
        size = 1.0
        while (found := _likelihood(rows, theta + size * d_theta, phi + size * d_phi)) < best:
            size /= 2
            if size < 1e-6:
                return _Fit(theta, phi)
        theta, phi, best = theta + size * d_theta, phi + size * d_phi, found
        if abs(d_theta) + abs(d_phi) < 1e-8:
            break
    return _Fit(theta, phi)


def _newton_step(rows: Sequence[_Row], theta: float, phi: float) -> tuple[float, float]:
    g0, g1 = 0.0, -phi / RIDGE**2
    h00 = h01 = 0.0
    h11 = 1 / RIDGE**2
    for y, x, weight in rows:
        q = _sigmoid(theta + phi * x)
        slope, curve = weight * (y - q), weight * q * (1 - q)
        g0, g1 = g0 + slope, g1 + slope * x
        h00, h01, h11 = h00 + curve, h01 + curve * x, h11 + curve * x * x
    determinant = max(h00 * h11 - h01 * h01, 1e-300)  # over 0 but for rounding: the prior is in h11
    return (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant


def _likelihood(rows: Sequence[_Row], theta: float, phi: float) -> float:
    total = -(phi**2) / (2 * RIDGE**2)
    for y, x, weight in rows:
        z = theta + phi * x
        total += weight * (y * z - max(z, 0.0) - math.log1p(math.exp(-abs(z))))
    return total


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))
