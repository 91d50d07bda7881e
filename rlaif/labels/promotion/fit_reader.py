"""Fit of a reader (judge_service/judge/reader.py) to gold pairs: ridge logistic regression.

    minimize   Σ_i v_i [log(1 + e^{z_i}) - y_i z_i] + λ/2 Σ_j (w_j s_j)²        z_i = Σ_j w_j x_ij

    y_i   1 if A is better, 0 if B; or P(A is better) of a soft gold label
    v_i   1 / pairs of its prompt, so that every prompt counts once
    s_j   root mean square of x_j, so weighted, but at least 0.1: the penalty does not depend on a
          feature's unit, and what differs by less, as bfloat16 reads do by chance, gets no say
    λ     of RIDGES, the one with the lowest loss on held-back folds of prompts

There is no intercept and no centering, because both would break the symmetry: a pair and its mirror
image (-x, 1 - y) have the same loss. rlaif/evaluation/logistic.py minimizes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from judge_service.judge.calibration import CalibrationError
from judge_service.judge.reader import FittedReader
from rlaif.evaluation.clustered import folds_by_prompt
from rlaif.evaluation.logistic import Floats, logistic_losses, ridge_logistic

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
FEWEST_PROMPTS = 20
SMALLEST_SCALE = 0.1  # nats
FOLDS = 5


@dataclass(frozen=True, slots=True)
class GoldReads:
    """The features of one judged gold pair, and its label."""

    prompt: str  # digest
    features: Mapping[str, float]
    gold: float  # P(A is better), in [0, 1]


def fit_reader(rows: Sequence[GoldReads], *, seed: int = 0, command: str = "") -> FittedReader:
    """The reader with the lowest penalized loss, its λ selected on folds of prompts.

    Raises CalibrationError for fewer than 20 prompts, or features of which none varies.
    """
    prompts = [row.prompt for row in rows]
    distinct = len(set(prompts))
    if distinct < FEWEST_PROMPTS:
        raise CalibrationError(
            f"too few prompts to fit a reader: {distinct}; give gold pairs on {FEWEST_PROMPTS} or "
            "more"
        )
    names = sorted({name for row in rows for name in row.features})
    x = np.array([[row.features.get(name, 0.0) for name in names] for row in rows])
    counts = Counter(prompts)
    weight = np.array([1.0 / counts[prompt] for prompt in prompts])
    scale = np.sqrt(weight @ x**2 / weight.sum())
    varying = scale > 1e-9  # rounding
    if not varying.any():
        raise CalibrationError("no feature differs from 0; give gold pairs that the judge can tell")
    names = [name for name, varies in zip(names, varying, strict=True) if varies]
    scale = np.maximum(scale[varying], SMALLEST_SCALE)
    x = x[:, varying] / scale
    y = np.array([row.gold for row in rows])

    # λ by cross-validation; the largest of equals, which is nearest to no opinion.
    fold_of = np.array(folds_by_prompt(prompts, FOLDS, seed))
    losses = {ridge: _held_back_loss(x, y, weight, fold_of, ridge) for ridge in RIDGES}
    ridge = min(reversed(RIDGES), key=lambda candidate: losses[candidate])
    w = ridge_logistic(x, y, weight, ridge) / scale
    weights = tuple(zip(names, map(float, w), strict=True))
    return FittedReader(weights=weights, ridge=ridge, command=command)


def _held_back_loss(
    x: Floats, y: Floats, weight: Floats, fold_of: npt.NDArray[np.int_], ridge: float
) -> float:
    total = 0.0
    for fold in range(FOLDS):
        train, test = fold_of != fold, fold_of == fold
        w = ridge_logistic(x[train], y[train], weight[train], ridge)
        total += float(weight[test] @ logistic_losses(x[test] @ w, y[test]))
    return total
