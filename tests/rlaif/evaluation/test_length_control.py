"""The win rate at equal length: solved by hand or symmetry, or against a second solver."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.evaluation.intervals import wilson
from rlaif.evaluation.length_control import RIDGE, PairOutcome, length_controlled_win_rate


def outcomes(*pairs):
    return [PairOutcome(f"p{i}", point, gap) for i, (point, gap) in enumerate(pairs)]


def test_without_differences_in_length_it_equals_the_win_rate():
    rate = length_controlled_win_rate(outcomes((1, 0), (1, 0), (0.5, 0), (0, 0)))
    assert rate.value == pytest.approx(2.5 / 4)
    assert rate.n == 4
    assert rate.low < rate.value < rate.high


def test_a_judge_that_follows_length_alone_gives_one_half():
    # gaps ±10 mirror each other, and so do the points: sigmoid(θ) can only be one half
    rate = length_controlled_win_rate(outcomes((1, 10), (1, 10), (0, -10), (0, -10)))
    assert rate.value == pytest.approx(0.5)


def test_two_lengths_match_a_solution_by_hand_up_to_the_prior():
    # s = 10, x = ±tanh 1; 12 longer win 8 times, 12 shorter 4 times. Without the prior on φ:
    # θ + φx = log 2, θ - φx = -log 2, so θ = 0. With three quarters and one half: θ = log(3) / 2.
    one = [(1, 10)] * 8 + [(0, 10)] * 4 + [(1, -10)] * 4 + [(0, -10)] * 8
    assert length_controlled_win_rate(outcomes(*one)).value == pytest.approx(0.5)
    other = [(1, 10)] * 45 + [(0, 10)] * 15 + [(1, -10)] * 30 + [(0, -10)] * 30
    by_hand = 1 / (1 + math.exp(-math.log(3) / 2))
    assert length_controlled_win_rate(outcomes(*other)).value == pytest.approx(by_hand, abs=2e-3)


def test_gradient_ascent_finds_the_same_optimum():
    rows = [(1, 5), (0, 9), (1, 30), (0.5, -4), (0, -20), (1, -2), (1, 14), (0, 3)]
    mean = sum(gap for _, gap in rows) / len(rows)
    scale = math.sqrt(sum((gap - mean) ** 2 for _, gap in rows) / len(rows))
    theta = phi = 0.0
    for _ in range(20000):  # on the objective in the module's docstring
        errors = [
            (y - 1 / (1 + math.exp(-theta - phi * x)), x)
            for y, x in ((y, math.tanh(gap / scale)) for y, gap in rows)
        ]
        theta += 0.05 * sum(e for e, _ in errors)
        phi += 0.05 * (sum(e * x for e, x in errors) - phi / RIDGE**2)
    expected = 1 / (1 + math.exp(-theta))
    assert length_controlled_win_rate(outcomes(*rows)).value == pytest.approx(expected, abs=1e-9)


def test_responses_to_one_prompt_count_as_one_prompt():
    several = [PairOutcome("p", 1, 0), PairOutcome("p", 0, 0), PairOutcome("q", 1, 0)]
    rate = length_controlled_win_rate(several)
    assert (rate.value, rate.n) == (pytest.approx(0.75), 2)


def test_the_interval_is_deterministic_and_never_collapses():
    some = outcomes(*[(1, 7)] * 12, *[(0, -3)] * 8, (1, -5))
    assert length_controlled_win_rate(some) == length_controlled_win_rate(some)
    always = length_controlled_win_rate(outcomes(*[(1, gap) for gap in range(20)]))
    assert always.value == 1.0
    assert always.low < 0.9, "Wilson's interval, since all resamples are equal"
    ties = length_controlled_win_rate(outcomes((1, 9), *[(0.5, gap) for gap in (0, 2, -1, 0, 3)]))
    low, high = wilson(ties.value, 6)
    assert ties.low <= low
    assert ties.high >= high


def test_no_outcomes_and_constant_gaps_give_none():
    assert length_controlled_win_rate([]) is None
    assert length_controlled_win_rate(outcomes((1, 10), (0, 10))) is None


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-300, 300)), min_size=2, max_size=12
    )
)
def test_swapping_the_sides_gives_one_minus_the_rate(pairs):
    one = length_controlled_win_rate(outcomes(*pairs))
    other = length_controlled_win_rate(outcomes(*[(1 - y, -gap) for y, gap in pairs]))
    assert (one is None) == (other is None)
    if one and other:
        assert one.value + other.value == pytest.approx(1.0, abs=1e-6)
        assert one.low <= one.value <= one.high
