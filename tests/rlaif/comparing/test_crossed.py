"""Intervals over seeds and prompts: against drawn bootstraps, scipy and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlaif.comparing.crossed import crossed_mean, crossed_share, over_seeds, t_quantile
from rlaif.evaluation.intervals import Estimate, wilson


def half(estimate):
    return (estimate.high - estimate.low) / 2


def test_interval_of_two_seeds_and_three_prompts_is_that_worked_by_hand():
    # m = 3; seeds 2 and 4; prompts 2, 3, 4; no rest: V_s = 2/2 = 1, V_p = 1/3, V_e = 0
    found = crossed_mean([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    total = 1 + 1 / 3
    degrees = total**2 / (1 / 1 + (1 / 9) / 2)  # 1.68, rounded down
    assert found.value == 3.0
    assert half(found) == pytest.approx(math.tan(math.pi * 0.475) * math.sqrt(total))
    assert math.floor(degrees) == 1
    assert found.n == 3


def test_variances_are_those_of_bootstraps_that_are_drawn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 12)) + rng.normal(size=(4, 1)) + rng.normal(size=12)
    seeds = [x[rng.integers(4, size=3)].mean() for _ in range(40_000)]
    prompts = [x[:, rng.integers(12, size=11)].mean() for _ in range(40_000)]
    by_seed, by_prompt = np.var(seeds), np.var(prompts)
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    total = by_seed + by_prompt - (rest**2).sum() / (3 * 11 * 48)
    degrees = math.floor(total**2 / (by_seed**2 / 3 + by_prompt**2 / 11))
    assert half(crossed_mean(x)) == pytest.approx(
        stats.t.ppf(0.975, degrees) * math.sqrt(total), rel=0.02
    )


def test_one_seed_has_students_interval_over_prompts():
    x = [0.1, 0.4, 0.35, 0.8, 0.2]
    low, high = stats.t.interval(0.95, 4, np.mean(x), stats.sem(x))
    found = crossed_mean([x])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 11, 40, 199, 1000])
@pytest.mark.parametrize("prob", [0.9, 0.975, 0.999])
def test_quantiles_of_t_are_scipys(degrees, prob):
    assert t_quantile(degrees + 0.9, prob) == pytest.approx(stats.t.ppf(prob, degrees), rel=1e-6)


# (standard deviation of seeds, of prompts, of single values), S, P
WORLDS = [
    ((0.0, 0.0, 1.0), 3, 60),
    ((0.0, 1.0, 1.0), 3, 60),
    ((0.3, 0.5, 1.0), 3, 60),
    ((1.0, 0.2, 0.5), 3, 60),
    ((0.3, 0.5, 1.0), 8, 100),
]


@pytest.mark.parametrize(("spread", "seeds", "prompts"), WORLDS)
def test_intervals_hold_the_truth_in_about_95_of_100_worlds(spread, seeds, prompts):
    rng = np.random.default_rng(1)
    covered, repeats = 0, 1000
    for _ in range(repeats):
        x = (
            rng.normal(scale=spread[0], size=(seeds, 1))
            + rng.normal(scale=spread[1], size=prompts)
            + rng.normal(scale=spread[2], size=(seeds, prompts))
        )
        found = crossed_mean(x)
        covered += found.low <= 0 <= found.high
    assert 0.925 < covered / repeats <= 0.995


def test_intervals_of_two_seeds_hold_the_truth_a_little_less_often():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        by_seed, by_prompt = rng.normal(scale=0.3, size=(2, 1)), rng.normal(scale=0.5, size=40)
        found = crossed_mean(by_seed + by_prompt + rng.normal(size=(2, 40)))
        covered += found.low <= 0 <= found.high
    assert 0.9 < covered / 1000 < 0.97


def test_intervals_of_win_rates_hold_where_seeds_and_prompts_differ_and_leave_out_neither():
    rng = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(1000):
        odds = 0.4 + rng.normal(scale=0.5, size=(3, 1)) + rng.normal(scale=0.7, size=50)
        x = (rng.random((3, 50)) < 1 / (1 + np.exp(-odds))).astype(float)
        found = crossed_share(x)
        truth = 0.5846  # E of s(0.4 + 0.86·z), z normal
        covered += found.low <= truth <= found.high
        low, high = wilson(float(x.mean()), x.size)  # all values taken to be independent
        naive += low <= truth <= high
    assert 0.92 < covered / 1000 <= 0.995
    assert naive < 800


def test_a_share_of_0_or_1_keeps_the_width_of_its_prompts():
    found = crossed_share([[1.0] * 20] * 3)
    assert (found.low, found.high) == wilson(1.0, 20)
    assert crossed_share([[1.0] * 20] * 3, comparisons=10).low < found.low


def test_a_share_is_never_surer_than_all_values_being_independent():
    x = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]  # V is 0 by seeds and by prompts
    found = crossed_share(x)
    assert found.low < wilson(0.5, 8)[0] + 1e-9


def test_many_comparisons_have_wider_intervals_that_hold_together():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, 40))
    assert half(crossed_mean(x, comparisons=15)) > half(crossed_mean(x))
    assert crossed_mean(x + 5, -1.0, 5.0).high == 5.0


def test_figures_over_seeds_add_the_spread_between_them():
    same = [Estimate(1.0, 0.5, 1.5, 30)] * 3
    assert over_seeds(same) == Estimate(1.0, 0.5, 1.5, 30)
    apart = [Estimate(v, v - 0.5, v + 0.5, 30) for v in (0.0, 1.0, 2.0)]
    expected = math.hypot(0.5, stats.t.ppf(0.975, 2) / math.sqrt(3))
    assert half(over_seeds(apart)) == pytest.approx(expected)
    assert over_seeds(apart, 0.0, 1.5).high == 1.5
    assert over_seeds([Estimate(1.0, None, None, 1)]).low is None
