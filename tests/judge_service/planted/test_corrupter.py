"""The errors of a planted judge: its equations in numbers worked by hand, and in simulation."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest

from judge_service.planted.corrupter import (
    Errors,
    log_sigmoid,
    pair_logit,
    rating_logprobs,
    seen,
    single_logit,
)
from tests.support.planted.judges import ask

CHAT = ask("Name a fruit.")
PAIRS = 4000


def errors(**changes: Any) -> Errors:
    facts = {
        "seed": 0,
        "flip": 0.0,
        "length_bias": 0.0,
        "position_bias": 0.0,
        "annotators": (1.0,),
        "votes": 1,
    }
    return Errors(**{**facts, **changes})


def right(made: Errors, pairs: int = PAIRS) -> list[float]:
    """The evidence of that many pairs, each with texts of its own; above 0 is right."""
    return [seen(made, CHAT, (f"a {i}", f"b {i}")) for i in range(pairs)]


def share(values: list[float]) -> float:
    return fmean(float(value > 0) for value in values)


def prob(logit: float) -> float:
    return math.exp(log_sigmoid(logit))


def test_a_judge_without_errors_is_sure_up_to_its_certainty() -> None:
    logit = pair_logit(errors(), CHAT, ("good", "evil"), (True, False))
    assert prob(logit) == pytest.approx(0.99)
    assert pair_logit(errors(), CHAT, ("good", "evil"), (False, True)) == pytest.approx(-logit)
    assert pair_logit(errors(), CHAT, ("good", "evil"), (True, True)) == 0.0


def test_length_and_position_add_log_odds() -> None:
    made = errors(length_bias=2.0, position_bias=0.5)
    assert pair_logit(made, CHAT, ("12345678", "1234"), (True, True)) == pytest.approx(
        2.0 * math.log(2) + 0.5
    )
    assert single_logit(made, CHAT, "x" * 200, True) == pytest.approx(
        math.log(99) / 2 + 2.0 * math.log(2)
    )


def test_flip_makes_that_share_of_labels_wrong_and_none_less_certain() -> None:
    evidence = right(errors(flip=0.3))
    assert share(evidence) == pytest.approx(0.7, abs=0.025)  # 3.4 standard errors
    assert {round(abs(each), 9) for each in evidence} == {round(math.log(99), 9)}


def test_an_annotator_is_right_as_often_as_the_stated_probability_says() -> None:
    for reliability in (0.6, 0.8, 0.95):
        evidence = right(errors(annotators=(reliability,)))
        assert share(evidence) == pytest.approx(reliability, abs=0.025)
        assert prob(abs(evidence[0])) == pytest.approx(reliability)


def test_flip_and_reliability_combine_as_the_equation_says() -> None:
    r, f = 0.8, 0.25
    evidence = right(errors(annotators=(r,), flip=f))
    assert share(evidence) == pytest.approx(r * (1 - f) + (1 - r) * f, abs=0.026)


def test_each_pair_is_given_to_one_annotator_by_chance() -> None:
    evidence = right(errors(annotators=(0.98, 0.62)))
    sure = [each for each in evidence if abs(each) > 2]
    unsure = [each for each in evidence if abs(each) < 2]
    assert len(sure) / len(evidence) == pytest.approx(0.5, abs=0.027)
    assert share(sure) == pytest.approx(0.98, abs=0.011)
    assert share(unsure) == pytest.approx(0.62, abs=0.037)


def test_the_stated_probability_of_several_votes_is_exact() -> None:
    evidence = right(errors(annotators=(0.9, 0.7, 0.6), votes=3))
    for level in {round(abs(each), 6) for each in evidence}:
        own = [each for each in evidence if round(abs(each), 6) == level]
        error = math.sqrt(prob(level) * prob(-level) / len(own))
        assert share(own) == pytest.approx(prob(level), abs=3.5 * error)
    assert share(evidence) > 0.9 - 0.017  # three votes are no worse than the best of them


def test_the_same_content_gets_the_same_answer_whichever_is_shown_first() -> None:
    made = errors(flip=0.5, annotators=(0.9, 0.6))
    for i in range(50):
        a, b = f"answer {i}", f"reply {i}"
        assert seen(made, CHAT, (a, b)) == seen(made, CHAT, (b, a))
        one, two = pair_logit(made, CHAT, (a, b), (True, False)), (False, True)
        assert pair_logit(made, CHAT, (b, a), two) == pytest.approx(-one)


def test_another_seed_errs_elsewhere() -> None:
    signs = [[each > 0 for each in right(errors(flip=0.5, seed=seed), 200)] for seed in (1, 2)]
    assert fmean(float(a == b) for a, b in zip(*signs, strict=True)) == pytest.approx(0.5, abs=0.12)


def test_ratings_are_binomial_and_sum_to_one() -> None:
    logprobs = rating_logprobs(0.7, 9)
    probs = [math.exp(each) for each in logprobs]
    assert sum(probs) == pytest.approx(1.0)
    assert sum(i * p for i, p in enumerate(probs)) == pytest.approx(8 * prob(0.7))


def test_log_sigmoid_neither_overflows_nor_loses_small_probabilities() -> None:
    assert log_sigmoid(800.0) == 0.0
    assert log_sigmoid(-800.0) == -800.0
    assert log_sigmoid(0.0) == pytest.approx(-math.log(2))
