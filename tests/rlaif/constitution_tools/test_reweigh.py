"""Refitted weights: their optimality conditions, and their effect on synthetic gold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlaif.constitution_tools.ablate import Floats, VoteTable
from rlaif.constitution_tools.reweigh import fit, nll, refit, scaled


def table(probs: Floats, right: Floats, weights: Floats | None = None) -> VoteTable:
    n, k = probs.shape
    return VoteTable(
        principles=tuple(f"p{i}" for i in range(k)),
        weights=np.ones(k) if weights is None else weights,
        probs=probs,
        order_gaps=np.zeros_like(probs),
        prompts=tuple(str(i) for i in range(n)),
        right=right,
    )


def synthetic(n: int, skills: list[float], seed: int = 0) -> tuple[Floats, Floats]:
    """Votes whose log-odds point to the right answer by `skills`, in unit noise."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, n).astype(float)
    logits = np.outer(2 * y - 1, skills) + draw.normal(size=(n, len(skills)))
    return 1 / (1 + np.exp(-logits)), y


def test_nll_by_hand() -> None:
    x, y = np.array([[1.0], [1.0]]), np.array([1.0, 0.0])
    found = nll(x, y, np.array([math.log(3.0)]))  # P = 0.75
    assert found == pytest.approx([-math.log(0.75), -math.log(0.25)])


def test_the_scale_minimizes_the_smoothed_nll() -> None:
    probs, y = synthetic(200, [1.0, 0.5])
    x = probs - 0.5
    beta = scaled(x, y, np.array([2.0, 1.0]))
    assert beta[0] == pytest.approx(2 * beta[1])
    s, z = beta.sum(), x @ (beta / beta.sum())
    target = np.where(y == 1, 201 / 202, 1 / 202)
    assert float(z @ (1 / (1 + np.exp(-s * z)) - target)) == pytest.approx(0.0, abs=1e-9)


def test_weights_that_are_mostly_wrong_get_the_scale_zero() -> None:
    probs, y = synthetic(100, [1.0])
    assert scaled(probs - 0.5, 1 - y, np.array([1.0])).tolist() == [0.0]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@example(6801, 2)  # momentum turned around in one step, where the slope was not 0
def test_the_fit_is_the_minimum_under_its_bounds(seed: int, k: int) -> None:
    """Karush-Kuhn-Tucker: the slope is 0 where β > 0 and not negative where β = 0."""
    draw = np.random.default_rng(seed)
    probs, y = synthetic(60, list(draw.normal(0.3, 1.0, k)), seed)
    x, weights = probs - 0.5, draw.uniform(0.5, 3.0, k)
    beta = fit(x, y, weights)
    center = scaled(x, y, weights)
    spread = max(center.sum(), 1.0) / k
    target = np.where(y == 1, 61 / 62, 1 / 62)
    slope = x.T @ (1 / (1 + np.exp(-x @ beta)) - target) + (beta - center) / spread**2
    assert (beta >= 0).all()
    assert slope[beta > 0] == pytest.approx(0.0, abs=1e-4)
    assert (slope[beta == 0] >= -1e-4).all()


def test_gold_lowers_the_weight_of_a_principle_without_skill() -> None:
    found = refit(table(*synthetic(400, [1.5, 0.0, 0.75])))
    assert found is not None
    assert found.weights["p0"] > found.weights["p2"] > 2 * found.weights["p1"]
    assert sum(found.weights.values()) == pytest.approx(3.0)
    assert found.nll_refitted < found.nll_written
    assert found.nll_written == pytest.approx(found.nll_equal)
    assert found.enough
    assert found.helps


def test_refitting_does_not_claim_to_improve_good_weights() -> None:
    found = refit(table(*synthetic(60, [1.0, 1.0, 1.0]), weights=np.array([2.0, 2.0, 2.0])))
    assert found is not None
    assert not found.helps
    assert sum(found.weights.values()) == pytest.approx(6.0)


def test_too_little_gold_is_reported() -> None:
    probs, y = synthetic(40, [1.0] * 5)
    found = refit(table(probs, y))
    assert found is not None
    assert (found.gold, found.enough) == (40, False)
    assert refit(table(probs[:19], y[:19])) is None
    unknown = y.copy()
    unknown[10:] = np.nan
    assert refit(table(probs, unknown)) is None


def test_gold_on_one_prompt_cannot_be_split_into_folds() -> None:
    found = table(*synthetic(40, [1.0]))
    one = VoteTable(
        found.principles, found.weights, found.probs, found.order_gaps, ("x",) * 40, found.right
    )
    assert refit(one) is None


def test_votes_that_are_always_right_still_give_finite_weights() -> None:
    y = np.array([0.0, 1.0] * 20)
    found = refit(table(np.where(y[:, None] == 1, 0.9, 0.1) * np.ones((1, 2)), y))
    assert found is not None
    assert all(map(math.isfinite, found.weights.values()))
    assert found.nll_refitted < 0.1


def test_principles_that_are_all_wrong_keep_their_weights() -> None:
    probs, y = synthetic(60, [2.0, 2.0])
    found = refit(table(probs, 1 - y, np.array([3.0, 1.0])))
    assert found is not None
    assert found.weights == {"p0": 3.0, "p1": 1.0}
    assert found.nll_refitted == pytest.approx(math.log(2))
