"""Ridge logistic regression by Newton's method, against closed forms and its own gradient."""

import math
import random

import numpy as np
import pytest

from judge_service.judge.calibration import CalibrationError
from rlaif.labels.promotion.fit_reader import GoldReads, fit_reader, ridge_logistic


def test_one_feature_of_equal_pairs_gets_the_log_odds_of_being_right():
    # x = 1 for every pair, three of four right, hardly any ridge: sigmoid(w) = 3/4.
    x, y = np.ones((8, 1)), np.array([1.0, 1, 1, 0] * 2)
    (w,) = ridge_logistic(x, y, np.ones(8), 1e-9)
    assert w == pytest.approx(math.log(3), abs=1e-6)


def test_soft_gold_labels_are_fitted_as_probabilities():
    (w,) = ridge_logistic(np.ones((2, 1)), np.array([0.9, 0.7]), np.ones(2), 1e-9)
    assert w == pytest.approx(math.log(0.8 / 0.2), abs=1e-6)


def test_at_the_minimum_the_gradient_is_zero_and_a_stronger_ridge_shrinks():
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


def test_perfectly_separated_pairs_have_a_finite_weight():
    # The minimum of log(1 + e^-w)·4 + 0.05 w²: w (1 + e^w) = 40.
    (w,) = ridge_logistic(np.ones((4, 1)), np.ones(4), np.ones(4), 0.1)
    assert w * (1 + math.exp(w)) == pytest.approx(40.0)


def rows(n: int, right: float = 0.8, seed: int = 0) -> list[GoldReads]:
    """A feature that says which is right, most of the time, and one that is noise."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        a_is_right = rng.random() < 0.5
        says_a = a_is_right == (rng.random() < right)
        features = {"p0/log_odds": 1.0 if says_a else -1.0, "length": rng.gauss(0.0, 0.1)}
        made.append(GoldReads(f"prompt {i}", features, float(a_is_right)))
    return made


def test_the_reader_finds_the_feature_that_says_which_is_right():
    reader = fit_reader(rows(400), command="by a test")
    weights = dict(reader.weights)
    # log(0.8 / 0.2) = 1.39, less what the ridge and chance take.
    assert weights["p0/log_odds"] == pytest.approx(1.39, abs=0.25)
    assert abs(weights["length"]) * 0.1 < 0.25
    assert reader.command == "by a test"


def test_mirrored_pairs_give_the_same_reader_but_for_rounding():
    one = rows(60)
    mirrored = [
        GoldReads(row.prompt, {name: -x for name, x in row.features.items()}, 1.0 - row.gold)
        for row in one
    ]
    assert dict(fit_reader(one).weights) == pytest.approx(dict(fit_reader(mirrored).weights))


def test_a_prompt_counts_once_however_many_pairs_it_has():
    one = rows(40)
    repeated = [row for row in one for _ in range(3)]
    assert dict(fit_reader(repeated).weights) == pytest.approx(dict(fit_reader(one).weights))


def test_differences_as_small_as_rounding_get_no_say():
    rng = random.Random(0)
    noisy = [
        GoldReads(
            row.prompt,
            {**row.features, "p0/mass": rng.gauss(0.0, 1e-3), "p1/mass": rng.gauss(0.0, 1e-15)},
            row.gold,
        )
        for row in rows(100)
    ]
    with_noise, without = dict(fit_reader(noisy).weights), dict(fit_reader(rows(100)).weights)
    assert with_noise.keys() == {"p0/log_odds", "length", "p0/mass"}
    assert abs(with_noise["p0/mass"]) * 1e-3 < 0.01
    assert with_noise["length"] == pytest.approx(without["length"], abs=0.01)


def test_too_few_prompts_and_features_that_never_vary_are_refused():
    with pytest.raises(CalibrationError, match="too few prompts to fit a reader: 19"):
        fit_reader([*rows(19), *rows(19)])
    flat = [GoldReads(f"{i}", {"length": 0.0}, 1.0) for i in range(30)]
    with pytest.raises(CalibrationError, match="no feature differs from 0"):
        fit_reader(flat)
