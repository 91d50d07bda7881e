"""A file as shards: the same rows in the same order, each prompt in one shard."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.data.datasets import read_preferences
from rlaif.data.files import RecordError
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Sample
from rlaif.data.samples import read_samples
from rlaif.data.shards.folder import data_files
from rlaif.data.shards.parquet import read_note
from rlaif.data.shards.split import _shards, split
from tests.support.feedback.labeled import labeled


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def responses(prompt: str, *texts: str) -> dict[str, Any]:
    return {"prompt": prompt, "responses": list(texts)}


def test_prompts_of_shards_are_those_of_the_file_with_their_splits(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [{"prompt": f"question {n}"} for n in range(50)])

    done = split([file], tmp_path / "p", 20)

    assert (done.holds, done.rows, done.shards) == ("prompts", 50, 3)
    assert read_prompts(tmp_path / "p").prompts == read_prompts(file).prompts
    assert [read_note(shard).rows for shard in data_files(tmp_path / "p")] == [20, 20, 10]


def test_splits_that_lines_name_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "split": "dev" if n == 3 else "train"} for n in range(5)]
    file = lines(tmp_path / "p.jsonl", rows)

    split([file], tmp_path / "p", 2)

    assert [p.id for p in read_prompts(tmp_path / "p").of("heldout")] == [
        p.id for p in read_prompts(file).of("heldout")
    ]


def test_several_files_become_one_folder(tmp_path: Path) -> None:
    files = [lines(tmp_path / f"{n}.jsonl", [{"prompt": f"q{n}"}]) for n in range(3)]

    assert split(files, tmp_path / "p", 2).shards == 2


def test_responses_to_one_prompt_stay_in_one_shard(tmp_path: Path) -> None:
    rows = [responses(f"q{n}", "a", "b", "c") for n in range(4)]
    file = lines(tmp_path / "s.jsonl", rows)

    split([file], tmp_path / "s", 4)

    assert read_samples(tmp_path / "s") == read_samples(file)
    assert [len(read_samples(shard)) for shard in data_files(tmp_path / "s")] == [6, 6]


def test_labels_keep_receipts_and_all_traits_in_every_shard(tmp_path: Path) -> None:
    file = labeled(tmp_path / "whole", 5)

    assert split([file], tmp_path / "l", 2).holds == "preferences"
    assert read_preferences(tmp_path / "l") == read_preferences(file)


def test_a_killed_split_makes_the_missing_shards_only(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [{"prompt": f"q{n}"} for n in range(6)])
    split([file], tmp_path / "p", 2)
    first, second, _ = data_files(tmp_path / "p")
    kept = first.stat().st_ino
    second.unlink()

    split([file], tmp_path / "p", 2)

    assert first.stat().st_ino == kept
    assert len(read_prompts(tmp_path / "p").prompts) == 6


def test_another_file_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    split([lines(tmp_path / "a.jsonl", [{"prompt": "a"}])], tmp_path / "p", 2)

    with pytest.raises(RecordError, match="was made otherwise: source"):
        split([lines(tmp_path / "b.jsonl", [{"prompt": "b"}])], tmp_path / "p", 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "q", "id": "x"}, {"prompt": "r", "id": "x"}], "same id: 'x'"),
        (
            [{"prompt": "q", "id": "x"}, {"prompt": "m", "id": "y"}, {"prompt": "r", "id": "x"}],
            "same id: 'x'",
        ),
        ([responses("q", "a"), responses("r", "a"), responses("q", "b")], "do not stand together"),
        ([{"prompt": "q"}, {"prompt": ""}], "p.jsonl:2"),
    ],
    ids=["two in a row", "two apart", "strewn responses", "an invalid row"],
)
def test_bad_rows_are_refused_before_anything_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        split([lines(tmp_path / "p.jsonl", rows)], tmp_path / "p", 1)
    assert not (tmp_path / "p").exists()


def test_a_folder_of_shards_is_split_into_others(tmp_path: Path) -> None:
    file = lines(tmp_path / "s.jsonl", [responses(f"q{n}", "a", "b") for n in range(6)])
    split([file], tmp_path / "large", 6)

    assert split([tmp_path / "large"], tmp_path / "small", 2).shards == 6
    assert read_samples(tmp_path / "small") == read_samples(file)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").touch()

    with pytest.raises(RecordError, match="nothing in it to split"):
        split([tmp_path / "p.jsonl"], tmp_path / "p", 1)


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 7))
def test_no_row_is_lost_and_no_group_is_cut(sizes: list[int], rows: int) -> None:
    sample = Sample.model_construct()
    groups = [[sample] * size for size in sizes]

    shards = list(_shards(groups, rows))

    assert len(list(chain.from_iterable(shards))) == sum(sizes)
    assert all(len(shard) >= rows for shard in shards[:-1])
    ends = {sum(sizes[: place + 1]) for place in range(len(sizes))}
    assert {sum(map(len, shards[: place + 1])) for place in range(len(shards))} <= ends
