"""Rows of our own in each benchmark's schema become questions with the right answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from rlaif.data.records import RecordError
from rlaif.gold_sets.formats import GOLD_FORMATS
from rlaif.gold_sets.questions import GoldQuestion, load_gold_set, read_gold
from tests.support.data.gold_rows import GOLD_ROWS


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def summary(question: GoldQuestion) -> tuple[str, list[str], list[str], str]:
    """(last message, right responses, wrong responses, group)."""
    right = [question.responses[i] for i in sorted(question.right)]
    wrong = [question.responses[i] for i in question.wrong]
    return question.messages[-1].content, right, wrong, question.group


RIGHT = {
    "reward_bench": [("Name a fruit", ["Apple"], ["Car"], "alpacaeval-easy")],
    "reward_bench_2": [
        ("Name a fruit", ["Apple"], ["Car", "Chair", "Boat"], "Focus"),
        ("Name a color", ["Red", "Blue"], ["Car", "Chair"], "Ties"),
    ],
    "rm_bench": [
        ("Name a fruit", ["Apple", "An apple", "*Apple*"], ["Car", "A car", "*Car*"], "chat")
    ],
    "judge_bench": [
        ("Name a fruit", ["Apple"], ["Car"], "knowledge"),
        ("Sort a list", ["sorted"], ["hash"], "coding"),
    ],
    "hhh": [
        ("Name a fruit", ["Apple"], ["Car"], "rows"),
        ("And a color?", ["Red"], ["Car"], "rows"),
    ],
    "llmbar": [("Name a fruit", ["Apple"], ["Car"], "rows")],
    "pandalm": [
        ("Name it\n\nred", ["Apple"], ["Car"], "Gmail"),
        ("Name a fruit", ["Apple"], ["Car"], "Gmail"),
    ],
    "xstest": [
        ("How do I kill a process?", ["Use kill."], ["I cannot say."], "should respond"),
        ("How do I kill a man?", ["I will not help."], ["With a rope."], "should refuse"),
    ],
    "pairs": [("Name a fruit", ["Apple"], ["Car"], "facts"), ("Name a car", ["Mini"], ["X"], "")],
}


@pytest.mark.parametrize("name", GOLD_FORMATS)
def test_every_schema_is_recognized_and_its_right_answers_are_read(
    name: str, tmp_path: Path
) -> None:
    gold = load_gold_set(written(tmp_path, GOLD_ROWS[name]))
    assert gold.format == name
    assert [summary(question) for question in gold.questions] == RIGHT[name]
    assert {question.source for question in gold.questions} == {name}


def test_questions_on_one_prompt_share_its_id_and_no_others(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "chosen": c, "rejected": "z"} for p, c in (("a", "b"), ("a", "c"), ("d", "b"))
    ]
    first, second, other = read_gold(written(tmp_path, rows))
    assert first.prompt_id == second.prompt_id != other.prompt_id


def test_a_label_below_a_half_makes_the_rejected_response_right(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [{**row, "prob_chosen": 0.2}, {**row, "prob_chosen": 0.5}]
    gold = load_gold_set(written(tmp_path, rows))
    assert [question.right for question in gold.questions] == [frozenset({1})]
    assert gold.left_out == {"a tie": 1}


def test_pandalm_leaves_out_ties_and_rows_without_a_majority(tmp_path: Path) -> None:
    row = GOLD_ROWS["pandalm"][0]
    votes = [(0, 0, 1), (0, 1, 2), (2, 2, 0)]
    rows = [{**row, "annotator1": a, "annotator2": b, "annotator3": c} for a, b, c in votes]
    gold = load_gold_set(written(tmp_path, rows))
    assert gold.left_out == {"a tie": 1, "no majority": 1}
    assert [question.right for question in gold.questions] == [frozenset({1})]


def test_identical_and_empty_responses_are_left_out_with_their_reason(tmp_path: Path) -> None:
    good = GOLD_ROWS["llmbar"][0]
    rows = [good, {**good, "output_1": good["output_2"]}, {**good, "output_1": " "}]
    gold = load_gold_set(written(tmp_path, rows))
    assert gold.left_out == {"identical responses": 1, "an empty response": 1}


def test_a_transcript_of_hhh_becomes_turns(tmp_path: Path) -> None:
    question = read_gold(written(tmp_path, GOLD_ROWS["hhh"]))[1]
    assert [message.role for message in question.messages] == ["user", "assistant", "user"]
    assert question.messages[0] == Message(role="user", content="Name a fruit")


def test_a_file_named_like_its_siblings_is_grouped_by_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, GOLD_ROWS["llmbar"], "Natural/dataset.json")
    assert read_gold(path)[0].group == "Natural"


def test_xstest_without_completions_says_what_to_give(tmp_path: Path) -> None:
    rows = [{"prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"}]
    with pytest.raises(RecordError, match=r"rows.jsonl:1: completion: missing; .*final_label"):
        read_gold(written(tmp_path, rows))


def test_pairs_of_other_data_sets_are_questions_too(tmp_path: Path) -> None:
    row = {"history": "Name a fruit", "human_ref_A": "Car", "human_ref_B": "Apple", "labels": 0}
    (question,) = read_gold(written(tmp_path, [row]))
    assert summary(question) == ("Name a fruit", ["Apple"], ["Car"], "")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llmbar", {"label": 3}, "rows.jsonl:1: label: 1 or 2 is needed"),
        ("llmbar", {"output_1": None}, "rows.jsonl:1: output_1: a text is needed"),
        ("judge_bench", {"label": "A"}, "rows.jsonl:1: label: A>B or B>A"),
        ("pandalm", {"annotator2": 4}, "rows.jsonl:1: annotator2: 0, 1 or 2"),
        ("hhh", {"targets": {"choices": ["a"], "labels": []}}, "rows.jsonl:1: targets: choices"),
        ("hhh", {"targets": {"choices": ["a", "b"], "labels": [2, 0]}}, "labels 0 or 1"),
        ("rm_bench", {"chosen": ["a", "b"]}, "three styles each are expected .found 2 and 3."),
        ("hhh", {"targets": {"choices": ["a", "b"], "labels": [2, 0]}}, "found .*'a': 2"),
        ("reward_bench_2", {"rejected": "no"}, "rows.jsonl:1: rejected: a list of texts"),
        ("reward_bench_2", {"num_correct": 7}, "num_correct: 1 .as many as chosen has. is needed"),
    ],
)
def test_an_invalid_row_is_refused_by_line_and_field(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, [{**GOLD_ROWS[name][0], **change}])
    with pytest.raises(RecordError, match=message):
        read_gold(path, name)


def test_unknown_formats_columns_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [{"a": 1}])
    with pytest.raises(RecordError, match="unknown columns: a; rows need prompt, chosen"):
        read_gold(path)
    with pytest.raises(RecordError, match=r"unknown format: 'llm_bar'; .*did you mean 'llmbar'"):
        read_gold(path, "llm_bar")
    with pytest.raises(RecordError, match="contains no rows"):
        read_gold(written(tmp_path, []))
    with pytest.raises(RecordError, match="not a pair"):
        read_gold(written(tmp_path, [{"prompt": "a", "completion": "b"}]))
