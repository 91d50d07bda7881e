"""Anytime intervals against numbers worked by hand, the definition on a grid, and their promise."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.evaluation.anytime import anytime_estimate, anytime_interval
from rlaif.evaluation.intervals import wilson

shares = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_wins_alone_have_the_bound_worked_by_hand():
    # every bet is the largest allowed, ½/m: the capital is (1 + ½(1 - m)/m)^5, and reaches 2/0.05,
    # 40, where ½(1 - m)/m = 40^(1/5) - 1
    low, high = anytime_interval([1.0] * 5)
    assert low == pytest.approx(0.5 / (40**0.2 - 1 + 0.5), abs=2e-6)
    assert high == 1.0


def test_losses_alone_mirror_wins():
    low, high = anytime_interval([0.0] * 5)
    assert (low, 1 - high) == (0.0, pytest.approx(anytime_interval([1.0] * 5)[0]))


def test_nothing_is_known_before_the_first_value():
    assert anytime_interval([]) == (0.0, 1.0)


def capital_on_a_grid(values, mean, alpha=0.05):
    """The largest K⁺ and K⁻ over time for one mean, straight from the definition."""
    up = down = 1.0
    most_up = most_down = 1.0
    for t in range(1, len(values) + 1):
        seen = values[: t - 1]
        means = [(0.5 + sum(seen[:i])) / (i + 1) for i in range(1, t)]
        variance = (0.25 + sum((x - m) ** 2 for x, m in zip(seen, means, strict=True))) / t
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        up *= 1 + min(bet, 0.5 / mean) * (values[t - 1] - mean)
        down *= 1 - min(bet, 0.5 / (1 - mean)) * (values[t - 1] - mean)
        most_up, most_down = max(most_up, up), max(most_down, down)
    return most_up, most_down


def test_the_interval_is_the_means_that_no_gambler_has_refuted():
    rng = random.Random(4)
    values = [rng.choice((0.0, 0.5, 1.0, 1.0)) for _ in range(60)]
    low, high = anytime_interval(values)
    assert 0.3 < low < high < 0.95
    for step in range(1, 200):
        mean = step / 200
        refuted = max(capital_on_a_grid(values, mean)) >= 40
        assert refuted == (not low - 1e-5 < mean < high + 1e-5), mean


@given(shares, shares)
def test_more_values_never_widen_it(first, more):
    low, high = anytime_interval(first)
    then_low, then_high = anytime_interval(first + more)
    # bounds may have crossed (every mean refuted): they then only move apart in their own direction
    assert then_low >= low - 1e-5 or then_high <= high + 1e-5


@given(shares)
def test_swapping_the_sides_mirrors_the_interval(values):
    low, high = anytime_interval(values)
    other_low, other_high = anytime_interval([1 - value for value in values])
    assert (other_low, other_high) == (
        pytest.approx(1 - high, abs=5e-6),
        pytest.approx(1 - low, abs=5e-6),
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_value_outside_0_to_1_is_refused(value):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        anytime_interval([0.5, value])


def stops_when_it_excludes_half(rng, rate, interval, most=200, chunk=20):
    """The interval at the first look that excludes ½, or at the last."""
    values = []
    while len(values) < most:
        values += [float(rng.random() < rate) for _ in range(chunk)]
        low, high = interval(values)
        if not low <= 0.5 <= high:
            break
    return low, high


def misses(rate, interval, runs=200):
    rng = random.Random(7)
    bounds = [stops_when_it_excludes_half(rng, rate, interval) for _ in range(runs)]
    return sum(not low <= rate <= high for low, high in bounds)


@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_coverage_holds_under_optional_stopping(rate):
    # 12 of 200 is 6 %; the benchmark has 1000 runs at five rates
    assert misses(rate, anytime_interval) <= 12


def test_wilsons_interval_does_not_hold_under_optional_stopping():
    """The contrast: were this not so, the anytime interval would be width for nothing."""
    assert misses(0.5, lambda values: wilson(sum(values) / len(values), len(values))) >= 24


def test_an_estimate_has_the_mean_and_its_number_of_prompts():
    estimate = anytime_estimate([1.0, 0.5, 1.0, 0.0])
    assert (estimate.value, estimate.n) == (0.625, 4)
    assert (estimate.low, estimate.high) == anytime_interval([1.0, 0.5, 1.0, 0.0])
