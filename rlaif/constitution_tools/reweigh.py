"""Weights that gold pairs would choose, held against those that are written and against equal ones.

    x_ik = p_ik - ½, 0 without a vote       y_i = 1 where gold says A, 0 for B
    P(y_i = 1) = sigmoid(Σ_k β_k x_ik),  β >= 0
    β = argmin  Σ_i NLL(y_i, sigmoid(β·x_i)) + ½ Σ_k (β_k - s ŵ_k)² / (s/K)²,  ŵ = w / Σ w

The judge adds up probabilities, not logits: so β / Σβ are weights that can be written into the
file as they are, and label as fitted. The prior keeps β near the weights that are written unless
gold says otherwise; s is the one scale that gold chooses for those (in the prior's width at least
1). Right answers count as
(n + 1) / (n + 2), not 1, which bounds s on separable data (Platt 1999).

The three are compared by NLL on pairs not fitted on: five folds, prompts kept whole. Equal and
written weights get a fitted scale too, so that weights are compared and not confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constitution.schema import Constitution
from rlaif.constitution_tools.ablate import Floats, VoteTable
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate
from rlaif.labels.calibrate import folds_by_prompt

FOLDS = 5
FEWEST = 20
"""Gold pairs under which nothing is fitted."""
PER_WEIGHT = 10
"""Gold pairs for each weight under which a fit is not to be trusted (Peduzzi et al. 1996)."""

_STEPS = 2000
_MAX_SCALE = 1e4  # votes that lean by a thousandth, all of them right, ask for no more


@dataclass(frozen=True, slots=True)
class Refit:
    """Weights that gold would choose, and whether they are worth writing down.

    NLL in nats per pair, on folds not fitted on; `gain` is that of the written weights less that of
    the refitted ones, over 0 when refitting helps. Weights are in effect (principle times trait),
    and add up as the written do.
    """

    gold: int
    weights: dict[str, float]
    nll_equal: float
    nll_written: float
    nll_refitted: float
    gain: Estimate

    def file_weights(self, law: Constitution) -> dict[str, float]:
        """What to write as each principle's weight, while its trait keeps its own."""
        traits = {principle.id: law.trait_weights[principle.trait] for principle in law.principles}
        return {name: weight / traits[name] for name, weight in self.weights.items()}

    @property
    def enough(self) -> bool:
        """Ten pairs for each weight."""
        return self.gold >= PER_WEIGHT * len(self.weights)

    @property
    def helps(self) -> bool:
        """The whole 95 % interval of the gain lies above 0."""
        return self.gain.low is not None and self.gain.low > 0


def refit(table: VoteTable) -> Refit | None:
    """None with fewer than 20 gold pairs, or when they are all of one prompt."""
    known = table.gold & ~np.isnan(table.probs).all(axis=1)
    y = table.right[known]
    if len(y) < FEWEST:
        return None
    x = np.nan_to_num(table.probs[known] - 0.5)  # (N, K)
    prompts = [prompt for prompt, there in zip(table.prompts, known, strict=True) if there]
    folds = np.array(folds_by_prompt(prompts, FOLDS, seed=0))
    equal = np.ones_like(table.weights)
    losses = np.full((3, len(y)), np.nan)
    for fold in np.unique(folds):
        fitted, held = folds != fold, folds == fold
        if not fitted.any():
            return None
        betas = (
            scaled(x[fitted], y[fitted], equal),
            scaled(x[fitted], y[fitted], table.weights),
            fit(x[fitted], y[fitted], table.weights),
        )
        for row, beta in enumerate(betas):
            losses[row, held] = nll(x[held], y[held], beta)
    beta = fit(x, y, table.weights)
    if not beta.any():  # every principle is wrong more often than right: nothing to choose
        beta = table.weights
    weights = beta / beta.sum() * table.weights.sum()
    gains = zip(prompts, (losses[1] - losses[2]).tolist(), strict=True)
    return Refit(
        gold=len(y),
        weights=dict(zip(table.principles, weights.tolist(), strict=True)),
        nll_equal=float(losses[0].mean()),
        nll_written=float(losses[1].mean()),
        nll_refitted=float(losses[2].mean()),
        gain=mean_estimate(by_prompt(gains)),
    )


def nll(x: Floats, y: Floats, beta: Floats) -> Floats:
    """(N,) -log P(y) in nats."""
    z = x @ beta
    loss: Floats = np.logaddexp(0.0, z) - y * z
    return loss


def scaled(x: Floats, y: Floats, weights: Floats) -> Floats:
    """(K,) β = s ŵ with the s >= 0 that minimizes the smoothed NLL: bisection on its slope."""
    direction: Floats = weights / weights.sum()
    z, target = x @ direction, _smoothed(y)

    def slope(s: float) -> float:
        return float(z @ (_sigmoid(s * z) - target))

    low, high = 0.0, _MAX_SCALE
    if slope(low) >= 0:  # the written weights are wrong more often than right
        high = low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    beta: Floats = low * direction
    return beta


def fit(x: Floats, y: Floats, weights: Floats) -> Floats:
    """(K,) β of the module's equations: accelerated projected gradient (Beck, Teboulle 2009)."""
    center = scaled(x, y, weights)
    spread = max(float(center.sum()), 1.0) / len(weights)
    target = _smoothed(y)
    step = 1.0 / (np.linalg.norm(x, 2) ** 2 / 4 + spread**-2)  # 1 / Lipschitz constant
    beta = ahead = center
    momentum = 1.0
    for _ in range(_STEPS):
        slope = x.T @ (_sigmoid(x @ ahead) - target) + (ahead - center) / spread**2
        moved = np.maximum(ahead - step * slope, 0.0)
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / next_momentum * (moved - beta)
        done = np.abs(moved - beta).max() < 1e-9
        beta, momentum = moved, next_momentum
        if done:
            break
    return beta


def _smoothed(y: Floats) -> Floats:
    """Targets of (n + 1) / (n + 2) and its complement. Both classes share n: A is only a name."""
    sure = (len(y) + 1) / (len(y) + 2)
    target: Floats = np.where(y == 1, sure, 1 - sure)
    return target


def _sigmoid(z: Floats) -> Floats:
    logistic: Floats = 0.5 * (1 + np.tanh(z / 2))
    return logistic
