"""Probabilities from label log-probabilities: worked by hand, and at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service.engine import LabelLogprobs
from judge_service.judge.label_probs import (
    PROTOCOLS,
    interpret,
    label_mass,
    prob_a,
    prob_first,
    rate,
)
from judge_service.types import Order, Read

LOGPROB = st.floats(-1e6, 0.0)


def read(first: float, second: float, order: Order = Order.AB) -> Read | None:
    return interpret(LabelLogprobs((first, second), 10, 4), order, "f" * 64)


def test_three_to_one_is_three_quarters() -> None:
    assert prob_first(math.log(0.6), math.log(0.2)) == pytest.approx(0.75, abs=1e-15)
    assert label_mass((math.log(0.6), math.log(0.2))) == pytest.approx(0.8, abs=1e-15)


def test_order_ba_names_the_second_reply_a() -> None:
    ab, ba = read(math.log(0.6), math.log(0.2)), read(math.log(0.6), math.log(0.2), Order.BA)
    assert ab is not None
    assert ba is not None
    assert prob_a(ab) == pytest.approx(0.75)
    assert prob_a(ba) == pytest.approx(0.25)


@given(LOGPROB, LOGPROB)
def test_swapping_the_labels_gives_one_minus_p(first: float, second: float) -> None:
    p, q = prob_first(first, second), prob_first(second, first)
    assert 0.0 <= p <= 1.0
    assert p + q == pytest.approx(1.0, abs=1e-15)


@given(LOGPROB, st.floats(-50, 0), st.floats(-1e4, 0))
def test_only_the_margin_counts(first: float, margin: float, shift: float) -> None:
    assert prob_first(0.0, margin) == pytest.approx(1 / (1 + math.exp(margin)), rel=1e-12)
    assert prob_first(shift, shift) == 0.5


@pytest.mark.parametrize(
    "logprobs",
    [
        (-math.inf, -0.1),
        (-0.1, -math.inf),
        (-math.inf, -math.inf),
        (math.nan, -0.1),
        (-0.1, math.nan),
        (math.inf, -0.1),
        (0.5, -3.0),
        (-0.1, -0.1),
    ],
)
def test_logprobs_that_are_not_probabilities_make_a_void_read(
    logprobs: tuple[float, float],
) -> None:
    assert read(*logprobs) is None


def test_mass_over_one_by_rounding_is_one() -> None:
    rounded = read(math.log(0.9), math.log(0.1002))
    assert rounded is not None
    assert rounded.label_mass == 1.0


def test_a_tiny_mass_is_still_a_number() -> None:
    tiny = read(-900.0, -901.0)
    assert tiny is not None
    assert tiny.prob_first == pytest.approx(1 / (1 + math.exp(-1)))
    assert tiny.label_mass == 0.0


def both(ab: tuple[float, float], ba: tuple[float, float]) -> list[Read]:
    reads = [read(*map(math.log, ab)), read(*map(math.log, ba), Order.BA)]
    return [r for r in reads if r is not None]


def test_pairwise_takes_the_mean_over_the_orders() -> None:
    reads = both((0.6, 0.2), (0.3, 0.6))  # P(A): 0.75, and 1 - 1/3
    assert PROTOCOLS["pairwise"](reads) == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert PROTOCOLS["pairwise"](reads[:1]) == pytest.approx(0.75)


def test_several_reads_of_one_order_count_as_one_order() -> None:
    ab, ba = both((0.6, 0.2), (0.3, 0.6))
    assert PROTOCOLS["pairwise"]([ab, ab, ab, ba]) == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_pointwise_compares_the_odds_of_yes() -> None:
    reads = both((0.6, 0.2), (0.3, 0.6))  # odds of Yes: 3 for A, 1/2 for B
    assert PROTOCOLS["pointwise"](reads) == pytest.approx(6 / 7)
    assert PROTOCOLS["pointwise"](list(reversed(reads))) == pytest.approx(6 / 7)


def test_pointwise_needs_a_read_of_each_response() -> None:
    assert PROTOCOLS["pointwise"](both((0.6, 0.2), (0.3, 0.6))[:1]) is None


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@given(first=st.tuples(LOGPROB, LOGPROB), second=st.tuples(LOGPROB, LOGPROB))
def test_swapping_the_responses_gives_one_minus_p(
    protocol: str, first: tuple[float, float], second: tuple[float, float]
) -> None:
    reads = [read(*first), read(*second, Order.BA)]
    valid = [r for r in reads if r is not None]
    swapped = [replace(r, order=_OTHER[r.order]) for r in valid]
    if len(valid) == 2:
        p, q = PROTOCOLS[protocol](valid), PROTOCOLS[protocol](swapped)
        assert p is not None
        assert q is not None
        assert p + q == pytest.approx(1.0, abs=1e-12)


_OTHER = {Order.AB: Order.BA, Order.BA: Order.AB}


def test_the_expected_rating_by_hand() -> None:
    # half the mass on "1", a quarter each on "2" and "3": E = 1.75, (1.75 - 2) / 1
    rating = rate([math.log(0.4), math.log(0.2), math.log(0.2)])
    assert rating is not None
    assert rating.score == pytest.approx(-0.25)
    assert rating.probs == pytest.approx((0.5, 0.25, 0.25))
    assert rating.label_mass == pytest.approx(0.8)


def test_a_label_without_a_score_makes_no_rating() -> None:
    assert rate([-1.0, -math.inf, -2.0]) is None


@given(st.lists(st.floats(-30, -3), min_size=2, max_size=9))
def test_a_score_lies_between_minus_one_and_one_and_mirrors(logprobs: list[float]) -> None:
    rating, mirrored = rate(logprobs), rate(logprobs[::-1])
    assert rating is not None
    assert mirrored is not None
    assert -1.0 <= rating.score <= 1.0
    assert rating.score == pytest.approx(-mirrored.score, abs=1e-12)
