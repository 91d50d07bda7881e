"""Figures of length: recovered where they are planted."""

from __future__ import annotations

import math
import random

import pytest

from rlaif.gold_sets.answers import GoldAnswer
from rlaif.gold_sets.length import length_bias
from rlaif.gold_sets.questions import GoldQuestion


def answer(right: int, wrong: int, gap: float, prompt: str = "p") -> GoldAnswer:
    """An answer to a pair of responses of these lengths."""
    return GoldAnswer(GoldQuestion.pair(prompt, "a" * right, "b" * wrong), (gap,))


def test_the_longer_is_counted_among_pairs_of_unequal_length() -> None:
    found = length_bias(
        [answer(4, 2, 1), answer(2, 4, 1), answer(2, 4, -1), answer(2, 4, 0), answer(3, 3, 1)]
    )
    assert found.longer_chosen is not None
    assert found.longer_right is not None
    assert found.longer_chosen.value == (1 + 0 + 1 + 0.5) / 4
    assert found.longer_right.value == 1 / 4


def test_a_planted_slope_is_recovered_beside_knowledge() -> None:
    draw = random.Random(0)
    answers = []
    for n in range(400):
        right, wrong = draw.randint(10, 400), draw.randint(10, 200)  # the right one is longer
        gap = 0.8 + 1.5 * math.log(right / wrong) + draw.gauss(0, 1)
        answers.append(answer(right, wrong, gap, f"p{n // 2}"))
    found = length_bias(answers)
    assert found.slope is not None
    assert found.slope.low is not None
    assert found.slope.high is not None
    assert found.slope.low < 1.5 < found.slope.high
    assert found.slope.high - found.slope.low < 0.5
    assert found.intercept == pytest.approx(0.8, abs=0.2)
    assert found.slope.n == 200


def test_knowledge_alone_has_no_slope_though_the_longer_is_right() -> None:
    found = length_bias([answer(40 + n, 10, 2.0, f"p{n}") for n in range(30)])
    assert found.slope is not None
    assert found.slope.value == pytest.approx(0, abs=1e-9)
    assert found.longer_chosen is not None
    assert found.longer_chosen.value == 1.0


def test_the_correlation_does_not_depend_on_which_response_comes_first() -> None:
    one = length_bias([answer(4, 2, 1), answer(2, 6, -0.5)])
    # The same log-odds, of the other response: right and wrong change places.
    other = length_bias([answer(2, 4, -1), answer(6, 2, 0.5)])
    assert one.correlation == pytest.approx(other.correlation)
    x, g = (math.log(2), math.log(1 / 3)), (1.0, -0.5)
    by_hand = (x[0] * g[0] + x[1] * g[1]) / math.sqrt(
        (x[0] ** 2 + x[1] ** 2) * (g[0] ** 2 + g[1] ** 2)
    )
    assert one.correlation == pytest.approx(by_hand)


def test_equal_lengths_have_no_figures() -> None:
    found = length_bias([answer(3, 3, 1), answer(3, 3, 2)])
    assert (found.longer_chosen, found.slope, found.correlation) == (None, None, None)


def test_a_certain_answer_does_not_decide_the_slope_alone() -> None:
    found = length_bias([answer(4, 2, math.inf), answer(2, 4, 1.0), answer(2, 3, 1.0)])
    assert found.slope is not None
    assert math.isfinite(found.slope.value)
