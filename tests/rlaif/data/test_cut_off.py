"""Responses that a length limit cut off: carried from samples to labels, counted, left out."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from constitution.schema import Message
from judge_service.types import Comparison
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.hard_labels import hard_labels
from rlaif.data.cut_off import ResponseText, count_lessons, count_pairs, ending_of, pairs_for
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Demonstration, Preference, Prompt, Sample, write_preferences
from rlaif.data.samples import read_samples
from rlaif.feedback.pairs import pairs_from_samples, same_question
from rlaif.training.config import TrainingError
from rlaif.training.preflight import require_kept
from tests.support.training.pairs import preference

PROMPT = Prompt(id="p", messages=(Message(role="user", content="Tell a story."),))


def sample(index: int, text: str, complete: bool = True, end_token: str = "") -> Sample:
    return Sample(
        prompt=PROMPT, index=index, response=text, tokens=3, complete=complete, seed=0,
        end_token=end_token,
    )  # fmt: skip


def ending(pair: Comparison, text: str) -> tuple[bool, str]:
    if pair.response_a == text:
        return pair.complete_a, pair.end_token_a
    return pair.complete_b, pair.end_token_b


def cut(pair: Preference, **which: bool) -> Preference:
    return pair.model_copy(update={f"{name}_complete": value for name, value in which.items()})


def test_a_pair_knows_how_each_of_its_samples_ended() -> None:
    samples = [sample(0, "Once upon", complete=False), sample(1, "The end.", end_token="<|end|>")]
    (pair,) = pairs_from_samples(samples).comparisons
    assert ending(pair, "Once upon") == (False, "")
    assert ending(pair, "The end.") == (True, "<|end|>")


@pytest.mark.parametrize("name", ["labels.parquet", "labels.jsonl"])
def test_a_file_of_labels_keeps_how_responses_ended(tmp_path, name) -> None:
    whole = preference(0, "Yes.", "No.")
    mixed = cut(preference(1, "Yes, and", "No."), chosen=False).model_copy(
        update={"rejected_end_token": "<|end|>"}
    )
    write_preferences(tmp_path / name, [whole, mixed])
    assert read_preferences(tmp_path / name) == [whole, mixed]


def test_data_of_others_counts_as_complete(tmp_path) -> None:
    file = tmp_path / "trl.jsonl"
    file.write_text('{"prompt": "Hi", "chosen": "Hello.", "rejected": "What"}\n')
    (pair,) = read_preferences(file)
    assert (pair.chosen_complete, pair.rejected_complete) == (True, True)


def test_columns_of_others_with_like_names_are_no_misspellings(tmp_path) -> None:
    file = tmp_path / "others.jsonl"
    row = '{"prompt": "Hi", "chosen": "Hello.", "rejected": "What", "chosen_completion": "x"}'
    file.write_text(row + "\n")
    assert len(read_preferences(file)) == 1


def test_ones_own_responses_may_say_that_they_were_cut_off(tmp_path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "Hi", "response": "Hello, I", "complete": false}\n')
    assert [s.complete for s in read_samples(file)] == [False]


def test_labels_from_before_answer_the_same_question() -> None:
    old = Comparison("p", PROMPT.messages, "a", "b")
    assert same_question(old, replace(old, complete_a=False))
    assert not same_question(old, replace(old, response_a="c"))


def test_a_pair_that_is_turned_round_turns_its_endings_too() -> None:
    pair = cut(preference(0, "Yes, and", "No."), chosen=False)
    (turned,) = hard_labels([pair.model_copy(update={"prob_chosen": 0.2})], "sigmoid").pairs
    assert turned.chosen_text == "No."
    assert (turned.chosen_complete, turned.rejected_complete) == (True, False)


def test_cut_off_responses_are_counted_by_response_and_by_pair() -> None:
    pairs = [
        preference(0, "a", "b"),
        cut(preference(1, "a", "b"), chosen=False, rejected=False),
        cut(preference(2, "a", "b"), rejected=False),
    ]
    counted = count_pairs(pairs)
    assert counted == (3, 2, 3)
    line = "2 of 3 pairs hold a response that was cut off by its length limit (3 responses): "
    assert counted.describe("pairs", left_out=False) == line + "no end is taught for it"
    assert counted.describe("pairs", left_out=True) == line + "left out"
    assert count_pairs(pairs[:1]).describe("pairs", left_out=False) == ""
    assert counted.pair_metrics() == {"cut_responses": 3.0, "cut_pairs": 2.0}
    one_each = count_pairs([pairs[2]]).describe("pairs", left_out=True)
    assert one_each == (
        "1 of 1 pairs hold a response that was cut off by its length limit: left out"
    )
    assert pairs_for(pairs, "skip") == pairs[:1]
    assert pairs_for(pairs, "keep") == pairs


def test_sft_counts_the_responses_that_it_imitates() -> None:
    lessons = [
        sample(0, "Once", complete=False),
        cut(preference(0, "a", "b"), rejected=False),  # the chosen one is whole
        cut(preference(1, "a", "b"), chosen=False),
        Demonstration(id="d", prompt=PROMPT.messages, response="Done."),
    ]
    assert count_lessons(lessons) == (2, 2, 4)


def test_leaving_out_every_pair_is_refused_with_the_remedy() -> None:
    pairs = [cut(preference(0, "a", "b"), chosen=False)]
    require_kept(pairs, DPOConfig())
    skip = DPOConfig(cut_off="skip")
    with pytest.raises(TrainingError, match=r"all 1 pairs .* cut_off=skip .* set cut_off=keep"):
        require_kept(pairs, skip)
    with pytest.raises(TrainingError, match=r"all 1 held-out pairs hold .* set cut_off=keep"):
        require_kept(pairs, skip, "held-out pairs")


def test_a_text_keeps_its_ending_between_processes() -> None:
    text = pickle.loads(pickle.dumps(ResponseText("Once", complete=False)))
    assert (text, ending_of(text)) == ("Once", (False, ""))
    assert ending_of("Once") == (True, "")
