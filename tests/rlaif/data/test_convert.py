"""Public data sets become files that the trainers read: whole or not at all, row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.data.convert import convert
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.formats import FORMATS
from rlaif.data.records import Demonstration, RecordError
from tests.support.data.public_rows import PUBLIC_ROWS

PAIR = {"prompt": "Why?", "chosen": "Since.", "rejected": "No."}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("asked", ["auto", ""])
def test_a_converted_set_reads_as_the_set_itself(
    name: str, ending: str, asked: str, tmp_path: Path
) -> None:
    source = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name])
    out = tmp_path / "new" / f"out.{ending}"
    done = convert(source, out, format=asked or name)
    assert done.format == name
    read = read_lessons if name in ("alpaca", "sharegpt") else read_preferences
    assert read(out) == read(source)
    assert done.notes.records == len(read(out))
    assert list(done.first) == read(out)[:3]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["oasst_trees", "oasst_messages"])
def test_the_lessons_of_a_tree_are_written_on_request(
    name: str, ending: str, tmp_path: Path
) -> None:
    source, out = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS[name]), tmp_path / f"out.{ending}"
    convert(source, out, kind="lessons")
    found = read_lessons(out)
    assert [each.response for each in found if isinstance(each, Demonstration)] == [
        "Apple", "Pear",
    ]  # fmt: skip
    assert found == read_lessons(source)


def test_plain_text_is_converted_too(tmp_path: Path) -> None:
    source = lines(tmp_path / "x.jsonl", {"text": "Once upon a time."})
    convert(source, tmp_path / "out.parquet")
    assert read_lessons(tmp_path / "out.parquet") == read_lessons(source)


def test_a_dry_run_counts_and_shows_three_and_writes_nothing(tmp_path: Path) -> None:
    source = lines(tmp_path / "x.jsonl", *PUBLIC_ROWS["rm_bench"] * 2)
    done = convert(source, tmp_path / "out.jsonl", dry_run=True)
    assert (done.notes.records, len(done.first)) == (18, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("good", [PAIR, {"prompt": "Why?", "completion": "Since."}])
def test_an_invalid_row_leaves_the_old_file(
    good: dict[str, Any], ending: str, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{ending}"
    out.write_text("old")
    source = lines(tmp_path / "x.jsonl", *[good] * 1500, {"prompt": "x"})
    for dry_run in (True, False):  # a dry run finds what the run would refuse
        with pytest.raises(RecordError, match=r"x\.jsonl:1501: "):
            convert(source, out, dry_run=dry_run)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "x.jsonl"]


def test_records_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first records are written before the last rows are read: memory stays flat."""
    order: list[str] = []

    def numbered(path: Path) -> Any:
        for number in range(3):
            order.append(f"read {number}")
            yield f"{path}:{number}", {**PAIR, "id": number}

    def written(path: Path, records: Any) -> None:
        order.extend(f"write {record.id}" for record in records)

    monkeypatch.setattr("rlaif.data.convert.iter_rows", numbered)
    monkeypatch.setattr("rlaif.data.convert.write_jsonl", written)
    convert(tmp_path / "x.jsonl", tmp_path / "out.jsonl")
    assert order == ["read 0", "write 0", "read 1", "write 1", "read 2", "write 2"]


@pytest.mark.parametrize(
    ("rows", "options", "why"),
    [
        ([PAIR], {"format": "nectr"}, "unknown format 'nectr'; did you mean 'nectar'"),
        ([PAIR], {"format": "xyz"}, "unknown format 'xyz'; known: hh_rlhf, "),
        ([{"a": 1}], {}, r"not recognized by its columns \(a\); rename them as docs/data\.md"),
        ([], {}, r"x\.jsonl: no rows in it"),
        ([PAIR | {"rejected": "Since."}], {}, r"no records in it \(trl\); left out: 1 identical"),
        ([PAIR], {"format": "nectar"}, r"x\.jsonl:1: prompt: a transcript that begins with"),
        ([{"text": "a"}, {"messages": [{"role": "user", "content": "a"},
          {"role": "assistant", "content": "b"}]}], {}, "its rows are of several kinds"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_says_why(
    rows: list[Any], options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    source = lines(tmp_path / "x.jsonl", *rows)
    with pytest.raises(RecordError, match=why):
        convert(source, tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_out_that_cannot_be_written_is_refused_before_reading(tmp_path: Path) -> None:
    source = lines(tmp_path / "x.jsonl", PAIR)
    with pytest.raises(RecordError, match=r"out\.csv: unknown ending; name it \.jsonl or \.par"):
        convert(source, tmp_path / "out.csv")
    with pytest.raises(RecordError, match="the file that is converted; give another --out"):
        convert(source, source)
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(RecordError, match="a folder; give the name of a file"):
        convert(source, tmp_path / "a.jsonl")
