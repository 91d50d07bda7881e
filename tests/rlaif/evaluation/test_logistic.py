"""Ridge logistic regression by Newton's method, against closed forms and its own gradient."""

import math

import numpy as np
import pytest

from rlaif.evaluation.logistic import ridge_logistic


def test_one_feature_of_equal_pairs_gets_the_log_odds_of_being_right() -> None:
    # x = 1 for every pair, three of four right, hardly any ridge: sigmoid(w) = 3/4.
    x, y = np.ones((8, 1)), np.array([1.0, 1, 1, 0] * 2)
    (w,) = ridge_logistic(x, y, np.ones(8), 1e-9)
    assert w == pytest.approx(math.log(3), abs=1e-6)


def test_soft_gold_labels_are_fitted_as_probabilities() -> None:
    (w,) = ridge_logistic(np.ones((2, 1)), np.array([0.9, 0.7]), np.ones(2), 1e-9)
    assert w == pytest.approx(math.log(0.8 / 0.2), abs=1e-6)


def test_at_the_minimum_the_gradient_is_zero_and_a_stronger_ridge_shrinks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60).astype(float)
    weight = rng.uniform(0.2, 1.0, 60)
    norms = []
    for ridge in (0.1, 1.0, 100.0):
        w = ridge_logistic(x, y, weight, ridge)
        p = 1 / (1 + np.exp(-x @ w))
        assert np.abs(x.T @ (weight * (p - y)) + ridge * w).max() < 1e-7
        norms.append(float(w @ w))
    assert norms == sorted(norms, reverse=True)


def test_perfectly_separated_pairs_have_a_finite_weight() -> None:
    # The minimum of log(1 + e^-w)·4 + 0.05 w²: w (1 + e^w) = 40.
    (w,) = ridge_logistic(np.ones((4, 1)), np.ones(4), np.ones(4), 0.1)
    assert w * (1 + math.exp(w)) == pytest.approx(40.0)


@pytest.mark.parametrize("shape", [(40, 5), (6, 20)])
def test_the_fit_is_where_the_gradient_vanishes(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(2)
    d, w, ridge = draw.normal(size=shape), draw.uniform(0.2, 1, size=shape[0]), 0.7
    b = ridge_logistic(d, np.ones(len(d)), w, ridge)

    def loss(at: np.ndarray) -> float:
        return float(w @ np.log1p(np.exp(-d @ at)) + ridge / 2 * at @ at)

    step = 1e-5
    for unit in np.eye(shape[1]):
        assert abs(loss(b + step * unit) - loss(b - step * unit)) / (2 * step) < 1e-4


def test_swapping_right_and_wrong_turns_the_fit_around() -> None:
    d = np.random.default_rng(3).normal(size=(30, 4))
    y = w = np.ones(30)
    assert ridge_logistic(-d, y, w, 1.0) == pytest.approx(-ridge_logistic(d, y, w, 1.0), abs=1e-6)


def test_no_features_have_no_coefficients() -> None:
    assert ridge_logistic(np.zeros((4, 0)), np.ones(4), np.ones(4), 1.0).shape == (0,)
