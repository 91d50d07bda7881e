"""Floors: exact expectations, fits against finite differences, and planted signals."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from rlaif.gold_sets.figures import ties_score
from rlaif.gold_sets.floors import (
    SURFACE,
    floors,
    longer,
    random_credit,
    random_ties,
    surface_features,
    word_features,
)
from rlaif.gold_sets.questions import GoldQuestion, as_messages

NOUNS = ("river", "table", "window", "garden", "letter", "market", "bridge", "candle")


def planted(count: int, right: str, wrong: str, prompts: int = 40) -> list[GoldQuestion]:
    """Pairs of noise whose right response ends with one text and whose wrong one with another."""
    draw = random.Random(5)

    def noise() -> str:
        return " ".join(draw.choices(NOUNS, k=draw.randint(3, 6)))

    return [
        GoldQuestion.pair(f"p{n % prompts}", f"{noise()} {right}", f"{noise()} {wrong}")
        for n in range(count)
    ]


def accuracy(questions: list[GoldQuestion], **options: object) -> dict[str, float]:
    return {f.name: fmean(f.credits) for f in floors(questions, **options)}  # type: ignore[arg-type]


def of_four(right: int, group: str = "", id: str = "") -> GoldQuestion:
    texts = tuple("abcd")
    return GoldQuestion(
        "p", as_messages("p"), texts, frozenset(range(right)), group, "reward_bench_2", id
    )


def test_random_is_right_by_the_number_of_ways_to_be_right() -> None:
    assert random_credit(GoldQuestion.pair("p", "a", "b")) == 0.5
    assert random_credit(of_four(1)) == 0.25
    assert random_credit(of_four(2, "Ties")) == pytest.approx(1 / 6)


def test_random_scores_on_ties_come_near_their_expected_accuracy() -> None:
    questions = [of_four(1, "Ties", "ref:1"), of_four(2, "Ties", "tied:1")]
    # 0.3 / 6 + 0.3 / 4, and a little for the margins, each below the accuracy it presupposes.
    expected = 0.3 / 6 + 0.3 / 4
    assert expected - 0.02 < random_ties(questions, ties_score) < expected + 0.06


def test_longer_prefers_by_characters_and_knows_equal_lengths() -> None:
    questions = [GoldQuestion.pair("p", *texts) for texts in (("ab", "a"), ("a", "ab"), ("a", "b"))]
    answers = longer(questions)
    assert [a.credit for a in answers] == [1.0, 0.0, 0.5]
    assert answers[0].gaps[0] == pytest.approx(math.log(2))


def test_a_planted_word_is_found_by_the_bag_of_words_and_not_by_the_surface() -> None:
    found = accuracy(planted(80, "yes", "nay"))
    assert found["words"] > 0.95
    assert found["surface"] < 0.7


def test_a_planted_list_is_found_by_the_surface() -> None:
    found = accuracy(planted(80, "\n- one\n- two", "one two of it"))
    assert found["surface"] > 0.95


def test_answers_without_a_signal_stay_near_a_half() -> None:
    found = accuracy(planted(200, "yes", "yes", prompts=100))
    assert 0.35 < found["words"] < 0.65
    assert 0.35 < found["surface"] < 0.65


def test_no_fit_has_seen_the_prompt_that_it_answers() -> None:
    # Every prompt has a word of its own: with its prompt in the training it would decide.
    questions = [
        GoldQuestion.pair(f"p{n}", f"own{n} {NOUNS[k]}", f"other{n} {NOUNS[k]}")
        for n in range(12)
        for k in range(3)
    ]
    assert accuracy(questions)["words"] == 0.5


def test_fits_need_ten_prompts() -> None:
    assert accuracy(planted(40, "yes", "nay", prompts=9)).keys() == {"random", "longer"}


def test_a_fit_on_another_file_leaves_out_prompts_that_are_asked_here() -> None:
    asked = planted(8, "yes", "nay", prompts=2)
    others = planted(80, "yes", "nay")
    assert accuracy(asked, train=others)["words"] == 1.0
    # All that is left without the two shared prompts is too little.
    few = [q for q in others if q.messages[0].content in {f"p{n}" for n in range(11)}]
    assert "words" not in accuracy(asked, train=few)


def test_features_of_a_text_by_hand() -> None:
    text = "I can't help. Ask 12 people!\n- one\n- **two**?"
    values = dict(zip(SURFACE, surface_features([text])[0], strict=True))
    assert values["log length"] == pytest.approx(math.log(len(text)))
    assert values["digits"] == pytest.approx(math.log(3))
    assert values["list items"] == pytest.approx(math.log(3))
    assert values["question marks"] == values["exclamation marks"] == pytest.approx(math.log(2))
    assert values["first person"] == pytest.approx(math.log(2))
    assert values["refusal"] == 1.0
    assert not surface_features([""]).any()


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("As an AI, I am unable to provide that.", True),
        ("I must decline.", True),
        ("I'm sorry for the delay: your parcel is on its way.", False),
        ("I can't wait to hear more!", False),
    ],
)
def test_the_surface_knows_a_refusal_by_the_same_rule_as_an_evaluation(
    text: str, refuses: bool
) -> None:
    values = dict(zip(SURFACE, surface_features([text])[0], strict=True))
    assert values["refusal"] == refuses


def test_a_bag_counts_words_that_occur_in_two_responses_or_more() -> None:
    bag = word_features(["red apple", "red red pear", "Apple pie"])(["red red apple", "pie"])
    assert bag.shape == (2, 2)  # apple and red
    assert sorted(bag[0]) == pytest.approx(
        [math.log(2) / math.hypot(math.log(2), math.log(3)),
         math.log(3) / math.hypot(math.log(2), math.log(3))]
    )  # fmt: skip
    assert not bag[1].any()
