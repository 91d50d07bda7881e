"""Ridge logistic regression by Newton's method, with soft labels and weights. Pure.

    minimize   Σ_i v_i [log(1 + e^{z_i}) - y_i z_i] + ridge/2 |b|²        z_i = b·x_i

There is no intercept: for comparisons whose sides have no order, a row and its mirror image
(-x, 1 - y) must cost the same. Newton's method is iteratively reweighted least squares (Hastie,
Tibshirani, Friedman 2009, section 4.4.1); a step that would raise the loss is halved.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MOST_STEPS = 100
_SMALLEST_STEP = 1e-10  # of a coefficient: the fit has converged


def ridge_logistic(x: Floats, y: Floats, weights: Floats, ridge: float) -> Floats:
    """The coefficients b that minimize the module's loss: (K,).

    x: (N, K), K may be 0. y: (N,), P(row i is 1), in [0, 1]. weights: v, (N,), positive. ridge:
    over 0, or 0 where no b separates the labels; else the minimum is at infinity.
    """
    if 0 < len(x) < x.shape[1] and ridge > 0:
        # b is a sum of rows of x: with xᵀ = Q R, b = Q c and c fits Rᵀ, of N columns instead of K.
        basis, triangle = np.linalg.qr(x.T)
        return np.asarray(basis @ ridge_logistic(triangle.T, y, weights, ridge))
    b = np.zeros(x.shape[1])

    def loss(at: Floats) -> float:
        return float(weights @ logistic_losses(x @ at, y) + ridge / 2 * at @ at)

    best = loss(b)
    for _ in range(_MOST_STEPS):
        prob = sigmoid(x @ b)
        gradient = x.T @ (weights * (prob - y)) + ridge * b
        step = np.linalg.solve(information(x, prob, weights, ridge), gradient)
        # Far from the minimum a full step can overshoot; the loss never rises.
        size = 1.0
        while (new := loss(b - size * step)) > best and size > 1e-6:
            size /= 2
        if new > best:
            break
        b, best = b - size * step, new
        if np.abs(step).max(initial=0.0) < _SMALLEST_STEP:
            break
    return b


def information(x: Floats, prob: Floats, weights: Floats, ridge: float = 0.0) -> Floats:
    """Second derivatives of the loss where P(row i is 1) is prob_i: (K, K)."""
    curvature = weights * prob * (1 - prob)  # (N,)
    return np.asarray((x.T * curvature) @ x + ridge * np.eye(x.shape[1]))


def logistic_losses(z: Floats, y: Floats) -> Floats:
    """log(1 + e^z) - y z of each row, in nats, without overflow."""
    return np.asarray(np.logaddexp(0.0, z) - y * z)


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^-z), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
