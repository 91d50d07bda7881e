"""Columns that change a row's meaning are respected or refused, the others named in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Demonstration, Preference, RecordError, write_preferences


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, GOOD, BAD = turn("user", "Why?"), turn("assistant", "Since."), turn("assistant", "No.")
PAIR = {"prompt": "Why?", "chosen": "Since.", "rejected": "No."}
OTHER = {"prompt": "How?", "chosen": "So.", "rejected": "No."}
ANSWER = {"prompt": "Why?", "completion": "Since."}
READERS = [read_preferences, read_lessons]
Reader = Callable[[Path], list[Any]]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts_of(found: list[Any]) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in each.prompt] for each in found]


# ── a system message ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_column_begins_the_prompt(column: str, tmp_path: Path) -> None:
    brief = {column: "Be brief."}
    rows = [PAIR | brief, ANSWER | brief, {"messages": [ASKED, GOOD], **brief}]
    expected = [("system", "Be brief."), ("user", "Why?")]
    assert prompts_of(read_lessons(lines(tmp_path / "x.jsonl", *rows))) == [expected] * 3
    path = lines(tmp_path / "x.jsonl", PAIR | brief)
    assert prompts_of(read_preferences(path)) == [expected]
    assert [(m.role, m.content) for m in load_prompts(path)[0].messages] == expected


def test_a_system_column_is_not_said_twice_and_never_contradicts(tmp_path: Path) -> None:
    prompt = [turn("system", "Be brief."), ASKED]
    row = {**PAIR, "prompt": prompt, "system": "Be brief."}
    assert len(read_preferences(lines(tmp_path / "x.jsonl", row))[0].prompt) == 2
    with pytest.raises(RecordError, match=r"x\.jsonl:1: system: another system message than"):
        read_preferences(lines(tmp_path / "x.jsonl", {**row, "system": "Be long."}))
    with pytest.raises(RecordError, match=r"x\.jsonl:1: system: a text is needed \(found 3\)"):
        read_preferences(lines(tmp_path / "x.jsonl", {**row, "system": 3}))


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_system_column_adds_nothing(empty: str | None, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**PAIR, "system": empty})
    assert prompts_of(read_preferences(path)) == [[("user", "Why?")]]


# ── rows that must not be learned from ───────────────────────────────────────────────────────


@pytest.mark.parametrize("flag", [{"label": False}, {"label": 0}, {"kto_tag": False}])
@pytest.mark.parametrize("row", [PAIR, ANSWER, {"messages": [ASKED, GOOD]}])
def test_a_response_labeled_false_is_never_imitated(
    row: dict[str, Any],
    flag: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = {**ANSWER, "label": True}
    (found,) = read_lessons(lines(tmp_path / "x.jsonl", {**row, **flag}, kept))
    assert isinstance(found, Demonstration)
    assert "1 records; left out 1: 1 label: false" in capsys.readouterr().err


def test_a_pair_labeled_false_is_not_a_preference(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**PAIR, "label": False}, OTHER)
    assert [p.chosen_text for p in read_preferences(path)] == ["So."]


@pytest.mark.parametrize("label", ["false", 2, 0.5, [False]])
def test_a_label_that_is_not_true_or_false_is_refused(label: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**ANSWER, "label": label})
    with pytest.raises(RecordError, match=r"x\.jsonl:1: label: true or false is needed"):
        read_lessons(path)


def test_single_responses_are_no_pairs_and_the_message_says_who_reads_them(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**ANSWER, "label": True})
    with pytest.raises(RecordError, match=r"single responses have nothing .* train sft reads"):
        read_preferences(path)


@pytest.mark.parametrize("value", ["true", 2, 0.5])
@pytest.mark.parametrize("name", ["deleted", "tie"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    """`deleted: "true"` was learned from, and not even named."""
    path = lines(tmp_path / "x.jsonl", OTHER | {name: False}, PAIR | {name: value})
    with pytest.raises(RecordError, match=rf"x\.jsonl:2: {name}: true or false is needed \(found"):
        read_preferences(path)


@pytest.mark.parametrize("tie", [{"tie": True}, {"tie": 1}, {"status": "tie"}, {"winner": "tie"}])
def test_a_tie_is_left_out_unless_prob_chosen_gives_the_label(
    tie: dict[str, object], tmp_path: Path
) -> None:
    rows = PAIR | tie, OTHER | dict.fromkeys(tie)
    path = lines(tmp_path / "x.jsonl", *rows)
    assert prompts_of(read_preferences(path)) == [[("user", "How?")]]
    path = lines(tmp_path / "x.jsonl", {**PAIR, **tie, "prob_chosen": 0.5})
    assert [found.prob_chosen for found in read_preferences(path)] == [0.5]


def test_a_row_with_deleted_1_is_left_out(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", PAIR | {"deleted": 1}, OTHER | {"deleted": 0})
    assert prompts_of(read_preferences(path)) == [[("user", "How?")]]


@pytest.mark.parametrize("read", READERS)
def test_a_deleted_row_is_left_out(read: Reader, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**PAIR, "deleted": True}, {**OTHER, "deleted": False})
    assert [each.chosen_text for each in read(path)] == ["So."]


def test_a_reply_of_weight_zero_is_context_and_no_lesson(tmp_path: Path) -> None:
    for mute in ({"weight": 0}, {"loss": False}, {"train": False}):
        talk = [ASKED, {**BAD, **mute}, turn("user", "And?"), {**GOOD, "weight": 1}]
        (found,) = read_lessons(lines(tmp_path / "x.jsonl", {"messages": talk}))
        assert isinstance(found, Demonstration)
        assert ([m.content for m in found.prompt], found.response) == (
            ["Why?", "No.", "And?"], "Since.",
        )  # fmt: skip
    talk = {"conversations": [{"from": "human", "value": "Why?"},
                              {"from": "gpt", "value": "No.", "weight": 0}]}  # fmt: skip
    with pytest.raises(RecordError, match="left out 1: 1 weight: 0"):
        read_lessons(lines(tmp_path / "x.jsonl", talk))


def test_a_message_outside_its_conversation_is_no_plain_text(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"role: a message of 'prompter' outside"):
        read_lessons(lines(tmp_path / "x.jsonl", {"text": "Name a fruit", "role": "prompter"}))
    labeled = {"text": "A fine film.", "label": 0}  # a class, not whether to imitate it
    assert len(read_lessons(lines(tmp_path / "x.jsonl", labeled))) == 1


# ── equal scores, identical responses ────────────────────────────────────────────────────────


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "names",
    [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
     ("chosen-rating", "rejected-rating"), ("rating_chosen", "rating_rejected"),
     ("chosen_reward", "rejected_reward")],
)  # fmt: skip
def test_a_pair_whose_scores_do_not_prefer_chosen_is_left_out(
    names: tuple[str, str], read: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(row: dict[str, Any], *scores: Any) -> dict[str, Any]:
        return row | dict(zip(names, scores, strict=True))

    path = lines(
        tmp_path / "x.jsonl",
        scored(PAIR, 7.0, 7.0), scored(PAIR, 3, 8), scored(PAIR, "4", "4.0"),
        scored(OTHER, 8, 7), scored(OTHER, None, 7),
    )  # fmt: skip
    assert [each.chosen_text for each in read(path)] == ["So.", "So."]
    output = capsys.readouterr().err
    assert "left out 3: 2 equal scores, 1 a lower score of chosen" in output


def test_a_label_of_its_own_outweighs_the_scores(tmp_path: Path) -> None:
    row = {**PAIR, "prob_chosen": 0.6, "score_chosen": 7, "score_rejected": 7}
    assert read_preferences(lines(tmp_path / "x.jsonl", row))[0].prob_chosen == 0.6


def test_a_list_of_two_equal_ratings_is_a_tie(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**PAIR, "rating": [5, 5.0]}, {**OTHER, "rating": [5, 4]})
    assert [each.chosen_text for each in read_preferences(path)] == ["So."]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "rejected": "Since."},
        {**PAIR, "rejected": "Since.", "prob_chosen": 0.5},
        {"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [GOOD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]},
        {"chosen": "Why? Since.", "rejected": "Why? Since."},
    ],
)
def test_identical_responses_are_left_out_and_counted_in_every_shape(
    row: dict[str, Any], read: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "x.jsonl", row, OTHER)
    assert [each.chosen_text for each in read(path)] == ["So."]
    assert "1 records; left out 1: 1 identical responses" in capsys.readouterr().err


def test_the_prompt_of_an_identical_pair_is_still_a_prompt(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]})
    assert [m.content for m in load_prompts(path)[0].messages] == ["Why?"]


# ── how a turn ends, and prompts that are not text ───────────────────────────────────────────


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED, GOOD], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASKED, GOOD, GOOD], "rejected": [ASKED, GOOD, BAD]},
    ],
)
def test_a_prompt_that_ends_with_the_assistants_turn_is_refused(
    row: dict[str, Any], read: Reader, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=r"x\.jsonl:1: prompt: ends with a turn .*\(a prefill\)"):
        read(lines(tmp_path / "x.jsonl", row))


def test_lessons_and_prompts_that_begin_the_reply_are_refused_too(tmp_path: Path) -> None:
    begun = [ASKED, turn("assistant", "Sure: an")]
    with pytest.raises(RecordError, match="a prefill"):
        read_lessons(lines(tmp_path / "x.jsonl", {"prompt": begun, "completion": " apple"}))
    with pytest.raises(RecordError, match="messages: expected a user's turn and then a reply"):
        read_lessons(lines(tmp_path / "x.jsonl", {"messages": [*begun, GOOD]}))
    with pytest.raises(RecordError, match="the last message must be the user's"):
        load_prompts(lines(tmp_path / "x.jsonl", {"prompt": begun}))
    with pytest.raises(RecordError, match="no turn of the user after the system message"):
        read_preferences(lines(tmp_path / "x.jsonl", PAIR | {"prompt": [turn("system", "x")]}))


@pytest.mark.parametrize("column", ["tools", "images", "history", "chat_template_kwargs"])
def test_a_prompt_that_is_more_than_text_is_refused(column: str, tmp_path: Path) -> None:
    row = {**PAIR, column: [{"name": "x"}]}
    for read in (*READERS, load_prompts):
        with pytest.raises(RecordError, match=rf"x\.jsonl:1: {column}: part of the prompt"):
            read(lines(tmp_path / "x.jsonl", row))
    for empty in (None, [], "", {}):
        assert read_preferences(lines(tmp_path / "x.jsonl", {**PAIR, column: empty}))


def test_a_reply_that_is_more_than_its_text_is_refused(tmp_path: Path) -> None:
    reply = {**GOOD, "tool_calls": [{"name": "x"}]}
    for row in ({"messages": [ASKED, reply]}, {"prompt": [ASKED], "completion": [reply]}):
        with pytest.raises(RecordError, match=r"tool_calls: unknown field of the reply"):
            read_lessons(lines(tmp_path / "x.jsonl", row))


def test_the_prompt_of_two_texts_is_what_they_share_up_to_a_space(tmp_path: Path) -> None:
    """TRL's implicit prompt: {"chosen": "The sky is blue.", "rejected": "The sky is green."}."""
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    (found,) = read_preferences(lines(tmp_path / "x.jsonl", row))
    parts = (found.prompt[0].content, found.chosen_text, found.rejected_text)
    assert parts == ("The sky is", " blue.", " black.")


def test_two_texts_beside_a_column_that_looks_like_their_prompt_are_refused(tmp_path: Path) -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black.", "query": "What color?"}
    with pytest.raises(RecordError, match=r"prompt: there is none, but a column query; rename"):
        read_preferences(lines(tmp_path / "x.jsonl", row))


def test_whole_conversations_beside_a_text_prompt_keep_their_other_turns(tmp_path: Path) -> None:
    before = [turn("system", "Be brief."), ASKED]
    row = {"prompt": "Why?", "chosen": [*before, GOOD], "rejected": [*before, BAD]}
    path = lines(tmp_path / "x.jsonl", row)
    expected = [("system", "Be brief."), ("user", "Why?")]
    assert prompts_of(read_preferences(path)) == [expected]
    assert [(m.role, m.content) for m in load_prompts(path)[0].messages] == expected


# ── the line about what was not used ─────────────────────────────────────────────────────────


def test_columns_that_are_not_used_are_named_once_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "x.jsonl", {**PAIR, "source": "mine", "margin": 2}, {**PAIR, "n": None})
    for _ in range(2):
        read_preferences(path)
    assert capsys.readouterr().err == f"{path}: 2 records; columns not used: margin, source\n"
    load_prompts(lines(tmp_path / "p.jsonl", {"prompt": "Why?", "answer": "Since."}))
    assert "p.jsonl: 1 records; columns not used: answer" in capsys.readouterr().err


def test_records_of_ours_are_read_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_preferences(tmp_path / "x.parquet", read_preferences(lines(tmp_path / "x.jsonl", PAIR)))
    assert isinstance(read_preferences(tmp_path / "x.parquet")[0], Preference)
    assert capsys.readouterr().err == ""


def test_only_the_main_process_of_a_launch_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    read_preferences(lines(tmp_path / "x.jsonl", {**PAIR, "source": "mine"}))
    assert capsys.readouterr().err == ""
