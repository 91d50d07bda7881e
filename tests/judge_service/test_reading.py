"""Label log-probabilities become a probability: worked by hand, and at the edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service.engine import LabelLogprobs
from judge_service.judgment import Order, Read
from judge_service.reading import interpret, label_mass, prob_a, prob_first

LOGPROB = st.floats(-1e6, 0.0)


def read(first: float, second: float, order: Order = Order.AB) -> Read | None:
    return interpret(LabelLogprobs((first, second), 10, 4), order, "f" * 64)


def test_three_to_one_is_three_quarters() -> None:
    assert prob_first(math.log(0.6), math.log(0.2)) == pytest.approx(0.75, abs=1e-15)
    assert label_mass(math.log(0.6), math.log(0.2)) == pytest.approx(0.8, abs=1e-15)


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
def test_what_is_no_probability_is_void(logprobs: tuple[float, float]) -> None:
    assert read(*logprobs) is None


def test_mass_over_one_by_rounding_is_one() -> None:
    found = read(math.log(0.9), math.log(0.1002))
    assert found is not None
    assert found.label_mass == 1.0


def test_a_tiny_mass_is_still_a_number() -> None:
    found = read(-900.0, -901.0)
    assert found is not None
    assert found.prob_first == pytest.approx(1 / (1 + math.exp(-1)))
    assert found.label_mass == 0.0
