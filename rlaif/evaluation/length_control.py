"""Length-controlled win rate: an estimate of the win rate at equal response lengths.

    P(policy wins) = sigmoid(θ + φ·x),   x = tanh(gap / s)        Eq. 1, arXiv:2404.04475
    length-controlled win rate = sigmoid(θ)                       x = 0: no difference in length

    gap    length of the policy's response minus that of the start's, in characters
    s      standard deviation of the gaps
    θ, φ   maximize Σ w·[y·log q + (1-y)·log(1-q)] - φ²/(2·RIDGE²),  q = P(policy wins)
    y      1 win, ½ tie, 0 loss, as in the win rate
    w      1 / judged responses to the prompt: every prompt has weight 1, as in the win rate

Without differences in length it equals the win rate, and swapping the sides gives 1 minus it. The
weak prior on φ (θ has none) keeps φ finite if length predicts every outcome; θ is then little more
than a guess, since the outcomes show nothing but length. Interval: the 2.5 % and 97.5 % quantiles
of a seeded bootstrap over prompts, widened to Wilson's interval of the same share where that is
wider: with few prompts or many ties the resamples hardly differ, and controlling for length does
not add certainty.

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


class PairOutcome(NamedTuple):
    """One judged comparison with the starting policy."""

    prompt: str  # prompt id
    point: float  # 1 win, ½ tie, 0 loss
    gap: float  # characters


class _Row(NamedTuple):
    y: float
    x: float
    weight: float


class _Fit(NamedTuple):
    theta: float
    phi: float


def length_controlled_win_rate(outcomes: Sequence[PairOutcome]) -> Estimate | None:
    """sigmoid(θ) as defined above; None if there are no outcomes.

    None too if all gaps are equal and not 0: the effect of length cannot be identified then.
    """
    if not outcomes:
        return None
    scale = pstdev(outcome.gap for outcome in outcomes)
    if scale == 0 and outcomes[0].gap != 0:
        return None
    groups: dict[str, list[PairOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.prompt, []).append(outcome)
    prompts = [
        [_Row(o.point, math.tanh(o.gap / scale) if scale else 0.0, 1 / len(group)) for o in group]
        for group in groups.values()
    ]
    fit = _fit([row for prompt in prompts for row in prompt], _Fit(0.0, 0.0))
    value = _sigmoid(fit.theta)
    lows, highs = zip(_bootstrap(prompts, fit), wilson(value, len(prompts)), strict=True)
    return Estimate(value, min(lows), max(highs), len(prompts))


def _bootstrap(prompts: Sequence[Sequence[_Row]], start: _Fit) -> tuple[float, float]:
    """95 % percentile interval over resampled prompts (Efron 1979)."""
    rng = random.Random(SEED)
    rates = sorted(
        _sigmoid(_fit([row for p in rng.choices(prompts, k=len(prompts)) for row in p], start)[0])
        for _ in range(RESAMPLES)
    )
    edge = round(0.025 * RESAMPLES)
    return rates[edge], rates[-1 - edge]


def _fit(rows: Sequence[_Row], start: _Fit) -> _Fit:
    """Newton's method; a step that does not raise the penalized likelihood is halved."""
    mean = fmean(row.y for row in rows)
    if mean in (0.0, 1.0):  # without a prior θ diverges, so that sigmoid(θ) is the win rate
        return _Fit(math.copysign(math.inf, mean - 0.5), 0.0)
    theta, phi = start
    best = _likelihood(rows, theta, phi)
    for _ in range(50):
        d_theta, d_phi = _newton_step(rows, theta, phi)
        size = 1.0
        while (new := _likelihood(rows, theta + size * d_theta, phi + size * d_phi)) < best:
            size /= 2
            if size < 1e-6:
                return _Fit(theta, phi)
        theta, phi, best = theta + size * d_theta, phi + size * d_phi, new
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
    determinant = max(h00 * h11 - h01 * h01, 1e-300)  # positive up to rounding: the prior is in h11
    return (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant


def _likelihood(rows: Sequence[_Row], theta: float, phi: float) -> float:
    total = -(phi**2) / (2 * RIDGE**2)
    for y, x, weight in rows:
        z = theta + phi * x
        total += weight * (y * z - max(z, 0.0) - math.log1p(math.exp(-abs(z))))
    return total


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))
