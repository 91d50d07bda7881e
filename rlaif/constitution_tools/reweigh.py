"""Weights that gold pairs would choose, compared with the weights in the file and equal ones.

    x_ik = p_ik - ½, 0 without a vote       y_i = 1 where gold says A, 0 for B
    P(y_i = 1) = sigmoid(Σ_k β_k x_ik),  β >= 0
    β = argmin  Σ_i NLL(y_i, sigmoid(β·x_i)) + ½ Σ_k (β_k - s ŵ_k)² / (s/K)²,  ŵ = w / Σ w

The judge averages probabilities, not logits, so β / Σβ can be written to the file as weights that
label as fitted. The prior keeps β near the weights w in the file; s is the scale that fits these to
gold (at least 1 in the prior's width). The target of a right answer is (n + 1) / (n + 2), not 1,
which bounds s on separable data (Platt 1999).

The three are compared by NLL on held-out pairs: five folds, split by prompt. Equal weights and the
file's get a fitted scale too, so that weights are compared rather than confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constitution.schema import Constitution
from rlaif.constitution_tools.ablate import Floats, VoteTable
from rlaif.evaluation.clustered import folds_by_prompt
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate
from rlaif.evaluation.logistic import logistic_losses, sigmoid

FOLDS = 5
FEWEST = 20
"""Minimum number of gold pairs to fit at all."""
PER_WEIGHT = 10
"""Minimum number of gold pairs per weight for a reliable fit (Peduzzi et al. 1996)."""

_STEPS = 2000
_SMALLEST_STEP = 1e-9  # of a weight: the fit has converged
_MAX_SCALE = 1e4  # enough even for right votes that are all within 0.001 of one half


@dataclass(frozen=True, slots=True)
class Refit:
    """Weights that gold would choose, and whether they are better than those in the file.

    NLL in nats per pair, on held-out folds. `nll_written` is that of the file's weights, `gain` how
    much lower that of the refitted ones is. Weights are effective ones (principle times trait),
    with the same sum as those in the file.
    """

    gold: int
    weights: dict[str, float]
    nll_equal: float
    nll_written: float
    nll_refitted: float
    gain: Estimate

    def file_weights(self, constitution: Constitution) -> dict[str, float]:
        """The weight to write for each principle, for unchanged trait weights."""
        by_trait = constitution.trait_weights
        traits = {principle.id: by_trait[principle.trait] for principle in constitution.principles}
        return {name: weight / traits[name] for name, weight in self.weights.items()}

    @property
    def enough(self) -> bool:
        """Whether there are ten pairs per weight."""
        return self.gold >= PER_WEIGHT * len(self.weights)

    @property
    def helps(self) -> bool:
        """Whether the whole 95 % interval of the gain is above 0."""
        return self.gain.low is not None and self.gain.low > 0


def refit(table: VoteTable) -> Refit | None:
    """Fit weights to gold; None with fewer than 20 gold pairs, or if all are of one prompt."""
    known = table.gold & ~np.isnan(table.probs).all(axis=1)
    y = table.right[known]
    if len(y) < FEWEST:
        return None
    x = np.nan_to_num(table.probs[known] - 0.5)  # (N, K)
    prompts = [prompt for prompt, is_known in zip(table.prompts, known, strict=True) if is_known]
    # Held-out losses of the three sets of weights, each fitted on the other folds.
    folds = np.array(folds_by_prompt(prompts, FOLDS, seed=0))
    equal = np.ones_like(table.weights)
    losses = np.full((3, len(y)), np.nan)
    for fold in np.unique(folds):
        train, held_out = folds != fold, folds == fold
        if not train.any():
            return None
        betas = (
            scaled(x[train], y[train], equal),
            scaled(x[train], y[train], table.weights),
            fit(x[train], y[train], table.weights),
        )
        for row, beta in enumerate(betas):
            losses[row, held_out] = nll(x[held_out], y[held_out], beta)
    # The weights to report use all pairs.
    beta = fit(x, y, table.weights)
    if not beta.any():  # every principle is wrong more often than right: keep the weights
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
    return logistic_losses(x @ beta, y)


def scaled(x: Floats, y: Floats, weights: Floats) -> Floats:
    """(K,) β = s ŵ with the s >= 0 that minimizes the smoothed NLL: bisection on its slope."""
    direction: Floats = weights / weights.sum()
    z, target = x @ direction, _smoothed(y)

    def slope(s: float) -> float:
        return float(z @ (sigmoid(s * z) - target))

    low, high = 0.0, _MAX_SCALE
    if slope(low) >= 0:  # these weights are wrong more often than right
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
        slope = x.T @ (sigmoid(x @ ahead) - target) + (ahead - center) / spread**2
        moved = np.maximum(ahead - step * slope, 0.0)
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        # Momentum can stand still where it turns around, with a slope that is not 0.
        done = max(np.abs(moved - beta).max(), np.abs(moved - ahead).max()) < _SMALLEST_STEP
        ahead = moved + (momentum - 1) / next_momentum * (moved - beta)
        beta, momentum = moved, next_momentum
        if done:
            break
    return beta


def _smoothed(y: Floats) -> Floats:
    """Targets (n + 1) / (n + 2) and its complement; n of both classes, since A is only a name."""
    high = (len(y) + 1) / (len(y) + 2)
    target: Floats = np.where(y == 1, high, 1 - high)
    return target
