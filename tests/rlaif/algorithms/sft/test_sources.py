"""Which records of a source SFT imitates: of several preferences about a prompt, the best response
once."""

from __future__ import annotations

from typing import Any

import pytest

from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import imitable, imitated
from rlaif.data.datasets import parse_lessons
from rlaif.data.records import PlainText
from tests.support.training.pairs import preference

TURN = [{"role": "user", "content": "Which?"}]


def left(*rows: dict[str, Any], **settings: Any) -> tuple[list[str], int]:
    """(the responses imitated, the preferences left aside) of the rows of a data set."""
    lessons = list(parse_lessons([(f"row {n}", row) for n, row in enumerate(rows)], "rows"))
    found = imitable(lessons, SFTConfig(**settings))
    return [imitated(lesson).response for lesson in found.lessons], found.aside


def nectar(**ranks: int) -> dict[str, Any]:
    answers = [{"answer": answer, "rank": rank, "model": "m"} for answer, rank in ranks.items()]
    return {"prompt": "\n\nHuman: Which?\n\nAssistant: ", "answers": answers}


def rated(text: str, rating: int) -> dict[str, Any]:
    return {"response": text, "annotations": {"helpfulness": {"Rating": str(rating)}}}


ULTRAFEEDBACK = {
    "instruction": "Which?",
    "completions": [rated("low", 1), rated("high", 5), rated("middle", 3), rated("alike", 5)],
}
LISTS = {"prompt": "Which?", "chosen": ["plain", "long", "neat"], "rejected": ["x", "y", "z"]}
HELPSTEER = [
    {"prompt": "Which?", "response": text, "helpfulness": score, "correctness": 4, "coherence": 4}
    for text, score in (("worst", 0), ("best", 4), ("fair", 3))
]


@pytest.mark.parametrize(
    ("rows", "best", "aside"),
    [
        ([nectar(third=3, best=1, second=2, last=4)], {"best"}, 5),  # of 6 pairs
        ([ULTRAFEEDBACK], {"high", "alike"}, 3),  # of 5: the two best are equal
        ([LISTS], {"plain", "long", "neat"}, 6),  # of 9, RM-Bench
        ([{**LISTS, "num_correct": 3}], {"plain", "long", "neat"}, 6),  # RewardBench 2
        (HELPSTEER, {"best"}, 2),  # of 3
    ],
)
def test_of_a_ranked_set_only_the_best_response_is_imitated_and_once(
    rows: list[dict[str, Any]], best: set[str], aside: int
) -> None:
    responses, left_aside = left(*rows)
    assert sorted(responses) == sorted(best)
    assert left_aside == aside


def pair(chosen: str, rejected: str, prob_chosen: float = 0.9) -> dict[str, Any]:
    content = {"prompt": TURN, "chosen": chosen, "rejected": rejected}
    return {**content, "prob_chosen": prob_chosen}


def test_pairs_of_a_prompt_that_are_not_compared_with_each_other_are_both_imitated() -> None:
    assert left(pair("a", "b"), pair("c", "d")) == (["a", "c"], 0)


def test_a_label_that_is_too_unsure_beats_nothing() -> None:
    assert left(pair("a", "b"), pair("b", "a", 0.55)) == (["a"], 0)
    assert left(pair("a", "b", 0.55), pair("b", "c")) == (["b"], 0)


def test_a_circle_of_labels_leaves_the_responses_that_were_rejected_least_often() -> None:
    circle = [pair("a", "b"), pair("b", "c"), pair("c", "a")]
    assert left(*circle) == (["a", "b", "c"], 0)
    assert left(*circle, pair("a", "c")) == (["a", "b"], 2), "c lost twice"


def test_other_prompts_and_other_records_are_left_alone() -> None:
    pairs = [preference(1, "yes", "no"), preference(2, "no", "yes")]
    lessons = [*pairs, PlainText(id="t", text="yes"), PlainText(id="u", text="yes")]
    assert imitable(lessons, SFTConfig()).lessons == lessons


def test_a_best_response_that_was_cut_off_is_not_replaced_by_the_second_best() -> None:
    rows = [{**pair("a", "b"), "chosen_complete": False}, pair("b", "c")]
    assert left(*rows, cut_off="skip") == ([], 1)


def test_what_was_left_aside_is_said_in_a_line() -> None:
    lessons = list(parse_lessons([("row", nectar(b=2, a=1, c=3))], "rows"))
    (said,) = imitable(lessons, SFTConfig()).describe("nectar", SFTConfig())
    assert said.startswith(
        "nectar: left aside 2 preferences: of the responses to a prompt only the"
    )
    assert list(imitable(lessons[:1], SFTConfig()).describe("nectar", SFTConfig())) == []
