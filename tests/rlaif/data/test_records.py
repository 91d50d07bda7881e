"""Records keep what they are given, refuse what they cannot read, and never leave half a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from constitution.schema import Message
from rlaif.data.datasets import (
    iter_preferences,
    parse_lessons,
    parse_preferences,
    read_preferences,
)
from rlaif.data.prompts import parse_prompts
from rlaif.data.records import (
    Preference,
    Prompt,
    RecordError,
    atomic_open,
    read_jsonl,
    write_jsonl,
    write_preferences,
)


def prompt(n: int) -> Prompt:
    return Prompt(id=f"p{n}", messages=(Message(role="user", content=f"question {n} ünïcode"),))


def preference(n: int, **changes: object) -> Preference:
    fields: dict[str, object] = {
        "id": f"p{n}",
        "prompt": prompt(n).messages,
        "chosen": (Message(role="assistant", content="good"),),
        "rejected": (Message(role="assistant", content="bad"),),
        "prob_chosen": 0.8,
        "traits": {"helpful": 0.9, "harmless": None},
        "receipt": "{}",
    }
    return Preference.model_validate(fields | changes)


def test_jsonl_gives_back_what_was_written(tmp_path: Path) -> None:
    written = [prompt(n) for n in range(3)]
    write_jsonl(tmp_path / "p.jsonl", written)
    assert read_jsonl(tmp_path / "p.jsonl", Prompt) == written


@pytest.mark.parametrize("name", ["labels.parquet", "labels.jsonl"])
def test_preferences_give_back_what_was_written(tmp_path: Path, name: str) -> None:
    written = [preference(1), preference(2, traits={"helpful": None, "harmless": 0.4})]
    write_preferences(tmp_path / name, written)
    assert read_preferences(tmp_path / name) == written


def test_a_trait_that_one_pair_lacks_reads_as_none(tmp_path: Path) -> None:
    write_preferences(
        tmp_path / "l.parquet", [preference(1), preference(2, traits={"honest": 0.6})]
    )
    assert read_preferences(tmp_path / "l.parquet")[1].traits == {
        "harmless": None, "helpful": None, "honest": 0.6,
    }  # fmt: skip


def test_preferences_are_taken_one_by_one_where_the_traits_are_named(tmp_path: Path) -> None:
    made = (preference(n, traits={"helpful": 0.9}) for n in range(2500))
    write_preferences(tmp_path / "l.parquet", made, ["helpful", "kind"])
    found = iter_preferences(tmp_path / "l.parquet")
    assert next(found).traits == {"helpful": 0.9, "kind": None}
    assert [p.id for p in found] == [f"p{n}" for n in range(1, 2500)]


def test_preferences_without_traits_are_kept_too(tmp_path: Path) -> None:
    write_preferences(tmp_path / "l.parquet", [preference(1, traits={})])
    assert read_preferences(tmp_path / "l.parquet") == [preference(1, traits={})]


def test_labels_that_cannot_be_made_leave_the_old_file(tmp_path: Path) -> None:
    write_preferences(tmp_path / "l.parquet", [preference(1)])

    def failing() -> Iterator[Preference]:
        yield preference(2)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any error
        write_preferences(tmp_path / "l.parquet", failing(), [])
    assert [p.id for p in read_preferences(tmp_path / "l.parquet")] == ["p1"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_parquet_file_of_something_else_is_recognized_by_its_columns(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"id": ["a"], "text": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(RecordError, match=r"no column chosen, rejected \(it has id, text\)"):
        read_preferences(tmp_path / "x.parquet")


def test_a_row_that_is_not_a_preference_is_named_by_row_and_id(tmp_path: Path) -> None:
    rows = [preference(n) for n in range(3)]
    rows[2] = rows[2].model_copy(update={"prob_chosen": 7.0})
    write_preferences(tmp_path / "l.parquet", rows)
    with pytest.raises(RecordError, match=r"row 2, id 'p2': Preference\.prob_chosen"):
        read_preferences(tmp_path / "l.parquet")


def test_a_broken_line_is_named_by_number_field_and_value(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [prompt(n).model_dump_json() for n in range(1, 5000)]
    lines[4710] = '{"id": "p4711", "messages": [{"role": "robot", "content": "x"}]}'
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(
        RecordError, match=r"prompts\.jsonl:4711: Prompt\.messages\.0\.role.*'robot'"
    ):
        read_jsonl(path, Prompt)


def test_a_torn_line_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(prompt(1).model_dump_json() + '\n{"id": "p2", "mess', encoding="utf-8")
    with pytest.raises(RecordError, match=r"prompts\.jsonl:2"):
        read_jsonl(path, Prompt)


def test_a_prompt_must_end_with_the_user(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "p", "messages": [{"role": "assistant", "content": "x"}]}\n')
    with pytest.raises(RecordError, match="the last message must be the user's"):
        read_jsonl(path, Prompt)


def test_a_missing_file_is_a_readable_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl", Prompt)
    with pytest.raises(RecordError, match="no such file"):
        read_preferences(tmp_path / "none.parquet")


def test_a_file_that_is_not_parquet_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(RecordError, match="not a Parquet file"):
        read_preferences(tmp_path / "x.parquet")


def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [prompt(1)])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=r"p\.jsonl: cannot be written \(No space left"):
        write_jsonl(path, [prompt(2)])
    assert read_jsonl(path, Prompt) == [prompt(1)]
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_is_not_there_until_it_is_whole(tmp_path: Path) -> None:
    with atomic_open(tmp_path / "a.txt") as out:
        out.write("half")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "half"


EMPTY_PROMPTS = ["", " \n", [{"role": "user", "content": ""}]]


@pytest.mark.parametrize("prompt", EMPTY_PROMPTS)
@pytest.mark.parametrize("replies", [{"chosen": "a", "rejected": "b"}, {"completion": "a"}])
def test_an_empty_prompt_is_refused_in_pairs_and_lessons_as_in_prompts(prompt, replies):
    rows = [("rows:1", {"prompt": prompt, **replies})]
    with pytest.raises(RecordError, match=r"rows:1: .*prompt: .*the last message is empty"):
        list(parse_lessons(rows, "rows"))
    if "chosen" in replies:
        with pytest.raises(RecordError, match=r"rows:1: .*prompt: .*the last message is empty"):
            list(parse_preferences(rows, "rows"))
    with pytest.raises(RecordError, match=r"rows:1: .*the last message is empty"):
        list(parse_prompts([("rows:1", {"prompt": prompt})]))
