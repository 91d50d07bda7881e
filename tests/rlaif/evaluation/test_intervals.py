"""Intervals against published values, and their invariants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.evaluation.intervals import (
    Estimate,
    by_prompt,
    mean_estimate,
    share_estimate,
    student_t,
    wilson,
)


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [  # R: binom::binom.wilson
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
    ],
)
def test_wilson_matches_published_intervals(wins, n, low, high):
    assert wilson(wins / n, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_contains_its_value_stays_in_range_and_is_symmetric(n, share):
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert wilson(1 - share, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(
    ("degrees", "value"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (29, 2.045), (100, 1.984)],
)
def test_student_t_matches_tabulated_quantiles(degrees, value):
    assert student_t(degrees) == pytest.approx(value, rel=0.01)


def test_the_mean_interval_matches_one_worked_by_hand():
    # mean 3, s = sqrt(2.5), t(4) = 2.776: 3 ± 2.776 · 1.5811 / sqrt(5) = 3 ± 1.963
    estimate = mean_estimate([1, 2, 3, 4, 5])
    assert (estimate.value, estimate.n) == (3, 5)
    assert estimate.high == pytest.approx(4.963, abs=0.01)
    assert estimate.low == pytest.approx(1.037, abs=0.01)


def test_one_value_has_a_mean_and_no_interval():
    assert mean_estimate([0.7]) == Estimate(0.7, None, None, 1)


def test_a_mean_interval_is_clipped_to_the_possible_range():
    estimate = mean_estimate([0.0, 1.0], 0.0, 1.0)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_many_responses_to_one_prompt_count_as_one_prompt():
    values = by_prompt([("p", 1.0)] * 50 + [("q", 0.0)] * 2)
    assert values == [1.0, 0.0]
    assert share_estimate(values).n == 2


def test_a_unanimous_result_still_has_a_wide_interval():
    estimate = share_estimate([1.0] * 10)
    assert estimate.low == pytest.approx(0.7225, abs=1e-4)
    assert math.isclose(estimate.high, 1.0)
