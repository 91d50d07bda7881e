"""Exported labels have the columns that other trainers read."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message
from rlaif.data.records import Preference, RecordError
from rlaif.labels.export import HIGHEST_MARGIN, export, margin


def preference(number: int, prob: float, *turns: str) -> Preference:
    roles = ("user", "assistant")
    talk = [Message(role=roles[n % 2], content=text) for n, text in enumerate(turns or ("ask",))]
    return Preference(
        id=f"l{number}",
        prompt=tuple(talk),
        chosen=(Message(role="assistant", content="good ünï"),),
        rejected=(Message(role="assistant", content="bad"),),
        prob_chosen=prob,
        receipt="{}",
    )


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


USER = {"role": "user", "content": "ask"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good ünï", "bad"))


def test_trl_reads_messages(tmp_path):
    export([preference(0, 0.9)], tmp_path / "o.jsonl", "trl")
    assert rows(tmp_path / "o.jsonl") == [
        {
            "id": "l0",
            "prompt": [USER],
            "chosen": [GOOD],
            "rejected": [BAD],
            "prob_chosen": 0.9,
            "chosen_complete": True,
            "rejected_complete": True,
            "chosen_end_token": "",
            "rejected_end_token": "",
        }
    ]


def test_openrlhf_reads_messages_and_a_margin(tmp_path):
    export([preference(0, 0.9)], tmp_path / "o.jsonl", "openrlhf")
    (row,) = rows(tmp_path / "o.jsonl")
    assert row["prompt"] + row["chosen"] == [USER, GOOD]  # as its reward dataset joins them
    assert row["margin"] == pytest.approx(math.log(9))


def test_plain_text_has_a_single_turn_as_it_is_and_several_with_their_roles(tmp_path):
    export([preference(0, 0.9), preference(1, 0.8, "a", "b", "c")], tmp_path / "o.jsonl", "jsonl")
    one, three = rows(tmp_path / "o.jsonl")
    assert (one["prompt"], one["chosen"], one["rejected"]) == ("ask", "good ünï", "bad")
    assert three["prompt"] == "User: a\n\nAssistant: b\n\nUser: c"


def test_labels_below_the_minimum_probability_are_left_out_and_counted(tmp_path):
    labels = [preference(n, prob) for n, prob in enumerate([0.5, 0.7, 0.699, 1.0])]
    found = export(labels, tmp_path / "o.jsonl", "jsonl", min_prob=0.7)
    assert (found.written, found.left_out) == (2, 2)
    assert [row["id"] for row in rows(tmp_path / "o.jsonl")] == ["l1", "l3"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "contains no labels"), ([preference(0, 0.6)], "none of 1 labels has prob_chosen >= 0.9")],
)
def test_nothing_to_write_is_an_error_and_leaves_no_file(tmp_path, labels, message):
    with pytest.raises(RecordError, match=message):
        export(labels, tmp_path / "o.jsonl", "trl", min_prob=0.9)
    assert list(tmp_path.iterdir()) == []


def test_another_file_type_is_an_error(tmp_path):
    with pytest.raises(RecordError, match=r"must end in \.jsonl"):
        export([preference(0, 0.9)], tmp_path / "o.parquet", "trl")


@given(st.floats(0, 1))
def test_a_margin_is_finite_and_changes_sign_with_the_label(prob):
    assert -HIGHEST_MARGIN - 1e-9 <= margin(prob) <= HIGHEST_MARGIN + 1e-9
    assert margin(1 - prob) == pytest.approx(-margin(prob), abs=1e-9)


def test_the_margin_is_the_log_odds():
    assert margin(0.5) == 0
    assert margin(0.8) == pytest.approx(math.log(4))
    assert margin(1.0) == pytest.approx(HIGHEST_MARGIN)
