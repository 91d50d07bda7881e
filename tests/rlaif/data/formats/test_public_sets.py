"""Rows in the schema of each public data set give the pairs and lessons that its page documents.

Every schema's public description is the `url` of its format in rlaif/data/formats/.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rlaif.data.convert import convert
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.formats import FORMATS, recognized
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Demonstration, Preference, RecordError
from tests.support.data.public_rows import PUBLIC_ROWS

ROOT = Path(__file__).resolve().parents[4]

FRUIT = ("Name a fruit", "Apple", "Car")

PAIRS = {
    "ultrafeedback": [FRUIT, ("Name a fruit", "Pear", "Car")],
    "nectar": [("Name a fruit", "Apple", "Pear"), FRUIT, ("Name a fruit", "Pear", "Car")],
    "llama_factory": [("Name\na fruit", "Apple", "Car")] * 2,
    "reward_bench_2": [("Name a fruit", "Apple", worse) for worse in ("Car", "Chair", "Boat")],
    "rm_bench": [
        ("Name a fruit", better, worse)
        for better in ("Apple", "An apple", "*Apple*")
        for worse in ("Car", "A car", "*Car*")
    ],
    "trl": [FRUIT] * 3,
}
"""The pairs of PUBLIC_ROWS as (last turn of the prompt, chosen, rejected); others give FRUIT."""

CHATS = ("alpaca", "sharegpt")


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed(name: str, **fields: Any) -> list[dict[str, Any]]:
    """The rows of a format, the last one with other values."""
    rows = deepcopy(PUBLIC_ROWS[name])
    rows[-1] |= fields
    return rows


def pairs(path: Path) -> list[tuple[str, str, str]]:
    return [(p.prompt[-1].content, p.chosen_text, p.rejected_text) for p in read_preferences(path)]


def replies(path: Path) -> list[tuple[list[str], str]]:
    """The lessons of a file as (contents of the prompt, response)."""
    return [
        ([message.content for message in lesson.prompt], lesson.response)
        for lesson in read_lessons(path)
        if isinstance(lesson, Demonstration)
    ]


def test_every_format_has_rows_here_and_a_public_description() -> None:
    assert PUBLIC_ROWS.keys() == FORMATS.keys()
    assert all(each.url.startswith("https://") for each in FORMATS.values())


def test_the_page_on_data_lists_every_format_with_its_description() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    missing = {name for name, each in FORMATS.items() if f"`{name}`" not in page}
    assert not missing | {each.url for each in FORMATS.values() if each.url not in page}


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_is_recognized_by_its_columns(name: str) -> None:
    assert recognized(PUBLIC_ROWS[name][0]) == name


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in CHATS])
def test_its_pairs_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name])
    assert pairs(path) == PAIRS.get(name, [FRUIT])
    for found in read_preferences(path):
        assert found.prob_chosen == (1.0 if name != "helpsteer3" else pytest.approx(2 / 3))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("llama_factory", "trl")])
def test_a_parquet_copy_reads_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = dict.fromkeys(column for row in PUBLIC_ROWS[name] for column in row)
    rows = [{column: row.get(column) for column in columns} for row in PUBLIC_ROWS[name]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    text = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name])
    assert read_lessons(path) == read_lessons(text)
    assert load_prompts(path) == load_prompts(text)


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("oasst")])
def test_its_prompts_are_read_each_once(name: str, tmp_path: Path) -> None:
    rows = PUBLIC_ROWS[name] if name not in ("trl", "llama_factory") else PUBLIC_ROWS[name][:1]
    found = load_prompts(lines(tmp_path / "x.jsonl", *rows))
    joined = "Name\na fruit" if name in ("alpaca", "llama_factory") else "Name a fruit"
    assert found[0].messages[-1].content == joined
    assert len(found) == {"alpaca": 3, "sharegpt": 2}.get(name, 1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_none_of_its_shapes_is_named(name: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name], {"other": 1})
    with pytest.raises(RecordError, match=r"x\.jsonl:\d: "):
        convert(path, tmp_path / "out.jsonl")


# ── what each set's columns mean ─────────────────────────────────────────────────────────────


def test_hh_transcripts_become_turns(tmp_path: Path) -> None:
    (found,) = read_preferences(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["hh_rlhf"]))
    assert [m.role for m in found.prompt] == ["user", "assistant", "user"]
    assert found.prompt[1].content == "Hello."


def test_hh_transcripts_that_part_earlier_or_have_no_reply_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = "\n\nHuman: Hi\n\nAssistant:"
    rows = [
        {"chosen": f"{begin} A.\n\nHuman: So?\n\nAssistant: B", "rejected": f"{begin} C"},
        {"chosen": f"{begin} A.\n\nHuman: So?", "rejected": f"{begin} A.\n\nHuman: No?"},
        {"chosen": f"{begin} A", "rejected": f"{begin} A"},
    ]
    path = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["hh_rlhf"], *rows)
    assert pairs(path) == [FRUIT]
    assert "1 records (hh_rlhf); left out 3: " in capsys.readouterr().err


def test_a_transcript_as_the_prompt_becomes_turns_and_keeps_the_label(tmp_path: Path) -> None:
    row = {"prompt": "\n\nHuman: Hi\n\nHuman: Why?\n\nAssistant:", "chosen": "A", "rejected": "B"}
    (found,) = read_preferences(lines(tmp_path / "x.jsonl", {**row, "prob_chosen": 0.75}))
    assert [m.content for m in found.prompt] == ["Hi\n\nWhy?"]
    assert found.prob_chosen == 0.75
    begun = {**row, "prompt": "\n\nHuman: Hi\n\nAssistant: Sure: an"}
    with pytest.raises(RecordError, match="a prefill"):
        read_preferences(lines(tmp_path / "x.jsonl", begun))


def test_a_system_column_begins_the_prompt_of_orca_pairs(tmp_path: Path) -> None:
    (found,) = read_preferences(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["orca_dpo"]))
    assert [(m.role, m.content) for m in found.prompt] == [
        ("system", "Be brief."), ("user", "Name a fruit"),
    ]  # fmt: skip


def test_argillas_copy_of_the_orca_pairs_keeps_the_question_in_input(tmp_path: Path) -> None:
    row = {"system": "", "input": "Name a fruit", "chosen": "The apple", "rejected": "The car"}
    path = lines(tmp_path / "x.jsonl", {**row, "status": "unchanged"}, {**row, "status": "tie"})
    assert pairs(path) == [("Name a fruit", "The apple", "The car")]


TIES = {
    "ultrafeedback_binarized": {"score_rejected": 8.5},
    "helpsteer2": {"helpfulness": 0},
    "helpsteer2_preference": {"preference_strength": 0},
    "helpsteer3": {"overall_preference": 0},
    "orca_dpo": {"status": "tie"},
    "judge_bench": {"label": "A=B"},
}


@pytest.mark.parametrize("name", TIES)
def test_equal_scores_are_left_out_and_counted(name: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *changed(name, **TIES[name]))
    for read in (read_preferences, read_lessons):
        with pytest.raises(RecordError, match=r"left out 1: 1 equal scores"):
            read(path)


def test_the_four_ratings_of_ultrafeedback_outweigh_its_overall_score(tmp_path: Path) -> None:
    """Early copies had overall_score 10 for the worst responses: all are 10 in these rows."""
    path = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["ultrafeedback"])
    assert ("Name a fruit", "Apple", "Car") in pairs(path)


@pytest.mark.parametrize("name", ["helpsteer2", "helpsteer2_preference"])
def test_later_turns_in_a_prompt_of_helpsteer2_become_turns(name: str, tmp_path: Path) -> None:
    """They were one user turn, with the marks of another model's template in it."""
    prompt = "Hi\n<extra_id_1>Assistant\nHello.\n\n<extra_id_1>User\nName a fruit"
    path = lines(tmp_path / "x.jsonl", *({**row, "prompt": prompt} for row in PUBLIC_ROWS[name]))
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Name a fruit")]
    (found,) = read_preferences(path)
    assert [(m.role, m.content) for m in found.prompt] == turns
    (asked,) = load_prompts(path)
    assert [(m.role, m.content) for m in asked.messages] == turns


def test_a_mark_of_turns_within_a_line_of_helpsteer2_is_text(tmp_path: Path) -> None:
    asked = "What does <extra_id_1>User mean in T5?"
    rows = changed("helpsteer2_preference", prompt=asked)
    (found,) = read_preferences(lines(tmp_path / "x.jsonl", *rows))
    assert [m.content for m in found.prompt] == [asked]


def test_annotators_of_helpsteer3_make_a_soft_label(tmp_path: Path) -> None:
    def label(overall: int, *scores: int) -> float:
        votes = [{"score": score} for score in scores]
        rows = changed("helpsteer3", overall_preference=overall, individual_preference=votes)
        return read_preferences(lines(tmp_path / "x.jsonl", *rows))[0].prob_chosen

    assert label(1, 1, 0) == 0.75  # one for, one undecided
    assert label(-2, -3, -1, -2) == 1.0
    assert label(2) == 1.0  # nobody's single vote was kept
    with pytest.raises(RecordError, match="left out 1: 1 annotators divided"):
        label(1, 3, -1)


@pytest.mark.parametrize(
    ("better", "safer", "safe", "chosen"),
    [
        (1, 0, (True, True), "Apple"),  # both safe: the more helpful one
        (1, 0, (True, False), "Car"),  # only one safe: that one, however helpful the other
        (1, 0, (False, False), "Car"),
        (0, 0, (True, True), "Car"),
    ],
)
def test_safety_comes_before_helpfulness_in_safe_rlhf(
    better: int, safer: int, safe: tuple[bool, bool], chosen: str, tmp_path: Path
) -> None:
    ids = {"better_response_id": better, "safer_response_id": safer}
    flags = {f"is_response_{place}_safe": flag for place, flag in enumerate(safe)}
    path = lines(tmp_path / "x.jsonl", *changed("pku_saferlhf", **ids, **flags))
    assert read_preferences(path)[0].chosen_text == chosen


def test_the_label_of_shp_says_which_comment_is_preferred(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *changed("shp", labels=0))
    assert pairs(path) == [("Name a fruit", "Car", "Apple")]
    with pytest.raises(RecordError, match=r"x\.jsonl:1: labels: 1 \(A is preferred\)"):
        read_preferences(lines(tmp_path / "x.jsonl", *changed("shp", labels=None)))


def test_only_neighbors_with_the_same_prompt_are_compared(tmp_path: Path) -> None:
    rows = PUBLIC_ROWS["helpsteer2"]
    other = {**rows[0], "prompt": "Name a car", "helpfulness": 3}
    path = lines(
        tmp_path / "x.jsonl", *rows, other, {**other, "response": "Pear", "helpfulness": 1}
    )
    assert pairs(path) == [FRUIT, ("Name a car", "Car", "Pear")]


# ── lessons ──────────────────────────────────────────────────────────────────────────────────


def test_an_alpaca_row_is_instruction_newline_input_and_its_history_is_learned(
    tmp_path: Path,
) -> None:
    assert replies(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["alpaca"])) == [
        (["Name\na fruit"], "Apple"),
        (["Be brief.", "Name a fruit"], "Apple"),
        (["Be brief.", "Name a fruit", "Apple", "Another"], "Pear"),
    ]
    with pytest.raises(RecordError, match="1 label: false"):
        read_lessons(
            lines(tmp_path / "x.jsonl", {"instruction": "x", "output": "y", "kto_tag": False})
        )


def test_every_reply_of_a_sharegpt_chat_is_a_lesson(tmp_path: Path) -> None:
    assert replies(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["sharegpt"])) == [
        (["Be brief.", "Name a fruit"], "Apple"),
        (["Be brief.", "Name a fruit", "Apple", "Another"], "Pear"),
    ]


def test_a_chat_cut_at_its_beginning_loses_the_reply_without_a_question(tmp_path: Path) -> None:
    turns = PUBLIC_ROWS["sharegpt"][0]["conversations"][2:]
    assert replies(lines(tmp_path / "x.jsonl", {"conversations": turns})) == [(["Another"], "Pear")]


def test_chats_with_tools_are_refused(tmp_path: Path) -> None:
    call = {"conversations": [{"from": "function_call", "value": "{}"}]}
    with pytest.raises(RecordError, match=r"conversations\.from: one of human, .*function_call"):
        read_lessons(lines(tmp_path / "x.jsonl", call))
    with pytest.raises(RecordError, match="tools: part of the prompt"):
        read_lessons(lines(tmp_path / "x.jsonl", *changed("sharegpt", tools='[{"name": "x"}]')))
    with pytest.raises(RecordError, match=r"not a file of preferences .*\(sharegpt\)"):
        read_preferences(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["sharegpt"]))


OASST = ("oasst_trees", "oasst_messages")


@pytest.mark.parametrize("name", OASST)
def test_the_best_replies_of_a_tree_are_lessons_with_their_thread(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replies(lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name])) == [
        (["Name a fruit"], "Apple"),
        (["Name a fruit", "Apple", "Another"], "Pear"),
    ]
    assert "left out 1: 1 not the best-ranked reply to its message" in capsys.readouterr().err


def test_replies_are_all_lessons_where_no_rank_says_which_is_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = deepcopy(PUBLIC_ROWS["oasst_messages"])[:3]
    del rows[1]["rank"], rows[2]["rank"]
    assert [text for _, text in replies(lines(tmp_path / "x.jsonl", *rows))] == ["Car", "Apple"]
    rows[1]["rank"] = 4  # the other one may be better or worse
    assert [text for _, text in replies(lines(tmp_path / "x.jsonl", *rows))] == ["Car"]
    rows[2] |= {"rank": 0, "text": " "}
    capsys.readouterr()
    assert [text for _, text in replies(lines(tmp_path / "x.jsonl", *rows))] == ["Car"]
    assert "left out 1: 1 an empty response" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [{"deleted": True}, {"review_result": False}])
def test_a_deleted_message_and_what_follows_it_is_no_lesson(
    flag: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = deepcopy(PUBLIC_ROWS["oasst_messages"])
    rows[2] |= flag  # the better answer, with a question and a reply below
    path = lines(tmp_path / "x.jsonl", *rows)
    assert replies(path) == [(["Name a fruit"], "Car")]
    assert "left out 3: 3 deleted or rejected messages, or below one" in capsys.readouterr().err
    tree = deepcopy(PUBLIC_ROWS["oasst_trees"])
    tree[0]["prompt"]["replies"][1] |= flag
    assert replies(lines(tmp_path / "y.jsonl", *tree)) == [(["Name a fruit"], "Car")]


def test_messages_without_their_parent_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = deepcopy(PUBLIC_ROWS["oasst_messages"])
    del rows[3]  # the second question
    assert replies(lines(tmp_path / "x.jsonl", *rows)) == [(["Name a fruit"], "Apple")]
    assert "1 messages whose parent is missing" in capsys.readouterr().err


def test_trees_that_follow_each_other_are_not_mixed(tmp_path: Path) -> None:
    rows = deepcopy(PUBLIC_ROWS["oasst_messages"])
    second = [{**row, "message_tree_id": "u", "text": f"{row['text']}!"} for row in rows]
    path = lines(tmp_path / "x.jsonl", *rows, *second)
    assert pairs(path) == [FRUIT, ("Name a fruit!", "Apple!", "Car!")]


def test_an_empty_response_is_left_out(tmp_path: Path) -> None:
    rows = changed("nectar")
    rows[0]["answers"][2]["answer"] = " "
    assert pairs(lines(tmp_path / "x.jsonl", *rows)) == [("Name a fruit", "Apple", "Pear")]


def test_preferences_of_ours_are_recognized_as_what_they_are() -> None:
    assert recognized({name: None for name in Preference.model_fields}) == "trl"
