"""Data sets made for TRL are read as our records, or refused naming file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.prompts import load_prompts
from rlaif.data.records import (
    Demonstration,
    PlainText,
    Preference,
    Prompt,
    RecordError,
    Sample,
    write_jsonl,
    write_preferences,
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED, GOOD, BAD = turn("user", "Why?"), turn("assistant", "Since."), turn("assistant", "No.")
TEXTS = {"prompt": "Why?", "chosen": "Since.", "rejected": "No."}
MESSAGES = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
SHARED = {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
REPEATED = {"prompt": "Why?", **SHARED}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, row: Any) -> Any:
    (found,) = read_preferences(lines(path / "p.jsonl", row))
    return found


def test_every_shape_of_a_preference_reads_the_same(tmp_path: Path) -> None:
    found = [only(tmp_path, row) for row in (TEXTS, MESSAGES, SHARED, REPEATED)]
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0] == Preference(
        id=found[0].id,
        prompt=(Message(role="user", content="Why?"),),
        chosen=(Message(role="assistant", content="Since."),),
        rejected=(Message(role="assistant", content="No."),),
        prob_chosen=1.0,  # a hard label
    )
    assert len(found[0].id) == 16


def test_a_shared_conversation_of_several_turns_is_the_prompt(tmp_path: Path) -> None:
    before = [turn("system", "Be brief."), ASKED, GOOD, turn("user", "And?")]
    found = only(tmp_path, {"chosen": [*before, GOOD], "rejected": [*before, BAD]})
    assert [m.role for m in found.prompt] == ["system", "user", "assistant", "user"]
    assert (found.chosen_text, found.rejected_text) == ("Since.", "No.")


def test_what_a_row_says_of_itself_is_kept_and_the_rest_left_aside(tmp_path: Path) -> None:
    row = {**TEXTS, "id": 7, "prob_chosen": 0.75, "score_chosen": 8, "source": "mine"}
    found = only(tmp_path, row)
    assert (found.id, found.prob_chosen) == ("7", 0.75)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**TEXTS, "chosen": 3}, r"p\.jsonl:1: chosen: a text or a list .* \(found 3\)"),
        ({"prompt": "Why?", "rejected": "No."}, r"chosen: a text or a list .*found nothing"),
        ({**TEXTS, "prob_choosen": 0.9}, r"prob_choosen: unknown field; did you mean prob_chosen"),
        ({**TEXTS, "prob_chosen": None}, r"Preference\.prob_chosen: .*found None"),
        ({**TEXTS, "prob_chosen": 1.5}, r"Preference\.prob_chosen: .*found 1\.5"),
        ({"chosen": "Since.", "rejected": "No."}, r"prompt: there is none, and chosen and"),
        ({**MESSAGES, "chosen": [GOOD, ASKED, GOOD]}, r"chosen: after the prompt one reply"),
        ({**MESSAGES, "chosen": [ASKED]}, r"chosen: after the prompt one .* \(found nothing\)"),
        ({**MESSAGES, "rejected": [turn("user", "x")]}, r"rejected: .* \(found user\)"),
        ({**MESSAGES, "chosen": [turn("robot", "x")]}, r"chosen: .* \(found robot\)"),
        ({**MESSAGES, "prompt": [turn("robot", "x")]}, r"Preference\.prompt\.0\.role: .*'robot'"),
        ({**MESSAGES, "prompt": []}, r"prompt: a text or a list of"),
        ([1, 2], r"p\.jsonl:1: not a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: Any, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        only(tmp_path, row)


def test_a_bad_row_among_many_is_found(tmp_path: Path) -> None:
    path = lines(tmp_path / "many.jsonl", *[TEXTS] * 4710, {"prompt": "x"}, TEXTS)
    with pytest.raises(RecordError, match=r"many\.jsonl:4711: chosen"):
        read_preferences(path)
    (tmp_path / "torn.jsonl").write_text(json.dumps(TEXTS) + '\n{"prompt": "W')
    with pytest.raises(RecordError, match=r"torn\.jsonl:2: not JSON"):
        read_preferences(tmp_path / "torn.jsonl")


@pytest.mark.parametrize("row", [TEXTS, MESSAGES, SHARED, REPEATED])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_that_datasets_writes_are_read(tmp_path: Path, row: Any, ending: str) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list([row, row], split="train")
    path = tmp_path / f"set.{ending}"
    made.to_parquet(path) if ending == "parquet" else made.to_json(path)
    assert read_preferences(path) == [only(tmp_path, row)] * 2


def test_what_is_read_from_trls_shapes_is_written_for_datasets_and_read_again(
    tmp_path: Path,
) -> None:
    datasets = pytest.importorskip("datasets")
    found = [only(tmp_path, row) for row in (TEXTS, SHARED)]
    write_preferences(tmp_path / "ours.parquet", found)
    made = datasets.Dataset.from_parquet(str(tmp_path / "ours.parquet"), cache_dir=str(tmp_path))
    assert made[0]["prompt"] == [ASKED]
    assert made[1]["chosen"] == [GOOD]
    made.to_json(tmp_path / "again.jsonl")
    assert read_preferences(tmp_path / "again.jsonl") == found


# ── lessons ──────────────────────────────────────────────────────────────────────────────────


def test_every_shape_of_a_lesson_is_read(tmp_path: Path) -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="Why?"),))
    sample = Sample(prompt=prompt, index=0, response="Since.", tokens=2, complete=False, seed=1)
    path = lines(
        tmp_path / "l.jsonl",
        {"prompt": "Why?", "completion": "Since."},
        {"prompt": [ASKED], "completion": [GOOD]},
        {"prompt": "Why?", "response": "Since.", "id": 3},
        {"text": "Once upon a time."},
        TEXTS,
        sample.model_dump(mode="json"),
    )
    found = read_lessons(path)
    answer = Demonstration(id=found[0].id, prompt=prompt.messages, response="Since.")
    assert found[:3] == [answer, answer, answer.model_copy(update={"id": "3"})]
    assert found[3] == PlainText(id=found[3].id, text="Once upon a time.")
    assert found[4:] == [only(tmp_path, TEXTS), sample]


def test_every_reply_of_a_conversation_is_a_lesson(tmp_path: Path) -> None:
    turns = [turn("system", "Be brief."), ASKED, GOOD, turn("user", "And?"), BAD]
    first, second = read_lessons(lines(tmp_path / "l.jsonl", {"messages": turns}))
    assert isinstance(first, Demonstration)
    assert isinstance(second, Demonstration)
    assert [len(first.prompt), first.response] == [2, "Since."]
    assert [len(second.prompt), second.response] == [4, "No."]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "Why?"}, r"l\.jsonl:1: nothing to imitate among its fields \(prompt\)"),
        ({"messages": [ASKED]}, r"messages: expected a user's turn and then a reply"),
        ({"messages": [GOOD]}, r"messages: expected a user's turn and then a reply"),
        ({"prompt": "Why?", "completion": [ASKED]}, r"completion: after the prompt one reply"),
        ({"text": 5}, r"PlainText\.text: .*found 5"),
        (
            {"prompt": [turn("user", "x") | {"n": 1}], "completion": "y"},
            r"prompt\.0\.n: unknown field",
        ),
    ],
)
def test_a_row_with_nothing_to_imitate_is_named(tmp_path: Path, row: Any, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        read_lessons(lines(tmp_path / "l.jsonl", row))


def test_an_empty_file_of_lessons_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nothing in it to imitate"):
        read_lessons(lines(tmp_path / "l.jsonl"))
    with pytest.raises(RecordError, match="no such file"):
        read_lessons(tmp_path / "none.jsonl")


def test_samples_of_ours_are_lessons_as_they_are(tmp_path: Path) -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="Why?"),), split="heldout")
    samples = [
        Sample(prompt=prompt, index=i, response=f"r{i}", tokens=2, complete=True, seed=i)
        for i in range(3)
    ]
    write_jsonl(tmp_path / "s.jsonl", samples)
    assert read_lessons(tmp_path / "s.jsonl") == samples


# ── prompts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_prompts_are_taken_from_any_set_that_has_them(tmp_path: Path, ending: str) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"set.{ending}"
    expected = Message(role="user", content="Why?")
    for row in (TEXTS, MESSAGES, SHARED, {"prompt": "Why?"}, {"prompt": "Why?", "split": "train"}):
        made = datasets.Dataset.from_list([row])
        made.to_parquet(path) if ending == "parquet" else made.to_json(path)
        (prompt,) = load_prompts(path)
        assert prompt.messages == (expected,)


def test_a_prompt_twice_in_parquet_is_named_by_its_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "set.parquet"
    datasets.Dataset.from_list([TEXTS, {**TEXTS, "prompt": "How?"}, TEXTS]).to_parquet(path)
    with pytest.raises(RecordError, match=r"set\.parquet: row 2, .* as row 0; delete one"):
        load_prompts(path)
