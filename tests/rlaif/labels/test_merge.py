"""Labels of several files and folders as one: each pair once, made alike, nothing lost beside."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rlaif
from constitution.errors import UserError
from judge_service.types import JudgeOptions
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.files import RecordError
from rlaif.data.records import Preference, write_preferences
from rlaif.feedback.labeler import label
from rlaif.labels.merge import MergedLabels, merge
from rlaif.labels.statistics import read_unjudged
from tests.support.feedback.constitutions import engine, make_constitution, pairs, principle
from tests.support.feedback.labeled import judge, rewrite
from tests.support.feedback.local_judge import LocalJudge


def made(folder: Path, first: int, last: int, **options: object) -> Path:
    """The folder with labels of the pairs q{first} to q{last - 1}."""
    how = JudgeOptions(interactive=False, **options)  # type: ignore[arg-type]
    label(pairs(last)[first:], judge(), folder, options=how)
    return folder


def ids(folder: Path) -> list[str]:
    return [row.id for row in read_preferences(folder / "preferences.parquet")]


def test_the_rows_are_those_of_one_run_and_a_repeated_pair_is_there_once(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 8), made(tmp_path / "other", 5, 12)

    done = merge([one, other / "preferences.parquet"], tmp_path / "out")

    assert done == MergedLabels(labels=12, repeated=3, unjudged=0)
    made(tmp_path / "whole", 0, 12)
    found = read_preferences(tmp_path / "out" / "preferences.parquet")
    whole = read_preferences(tmp_path / "whole" / "preferences.parquet")
    assert [row.model_dump(exclude={"receipt"}) for row in found] == [
        row.model_dump(exclude={"receipt"}) for row in whole
    ]


def test_a_folder_of_shards_is_a_source(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 5), made(tmp_path / "other", 5, 9)
    rlaif.split_shards(other / "preferences.parquet", out=tmp_path / "shards", rows=2)

    done = merge([one, tmp_path / "shards"], tmp_path / "out")

    assert done.labels == 9
    assert ids(tmp_path / "out") == [f"q{n}" for n in range(9)]


def test_an_equal_pair_under_another_id_is_there_once(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 2, 4)
    rewrite(other / "preferences.parquet", 0, lambda row: row.model_copy(update={"id": "renamed"}))

    merge([one, other], tmp_path / "out")

    assert ids(tmp_path / "out") == ["q0", "q1", "q2", "q3"]


def surer(row: Preference) -> Preference:
    return row.model_copy(update={"prob_chosen": 0.999})


def test_a_pair_with_two_labels_is_refused_with_its_id_and_nothing_written(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 2, 4)
    rewrite(other / "preferences.parquet", 0, surer)

    with pytest.raises(RecordError, match=r"other/.*: the pair 'q2' has another label .*; delete"):
        merge([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()

    rewrite(other / "preferences.parquet", 0, lambda row: row.model_copy(update={"id": "renamed"}))
    with pytest.raises(
        RecordError, match=r"the pair 'renamed', there with the id 'q2', has anothe"
    ):
        merge([one, other], tmp_path / "out")


def test_an_id_of_two_pairs_is_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 3, 5)
    rewrite(other / "preferences.parquet", 1, lambda row: row.model_copy(update={"id": "q1"}))

    with pytest.raises(RecordError, match=r"other/.*: the id 'q1' is that of another pair"):
        merge([one, other], tmp_path / "out")


def test_labels_made_differently_are_refused_with_what_differs(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), tmp_path / "other"
    rules = make_constitution(principle(0), principle(1))
    label(pairs(5)[3:], LocalJudge(rules, engine=engine()), other)

    with pytest.raises(RecordError, match=r"label 'q3' was made differently: constitution: .* in"):
        merge([one, other], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"seed": 7}, "seed: 0 in .*one.*, 7 in .*other"),
        ({"sample_principles": 2}, "sample_principles: None in .*one.*, 2 in .*other"),
    ],
)
def test_other_options_are_refused_by_name(tmp_path: Path, options: dict, differs: str) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 3, 5, **options)

    with pytest.raises(RecordError, match=f"made differently: {differs}"):
        merge([one, other], tmp_path / "out")


def test_another_judge_within_a_file_is_found_in_its_receipts(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 3, 5)

    def by_another(row: Preference) -> Preference:
        receipt = json.loads(row.receipt)
        receipt["model"]["name"] = "larger"
        return row.model_copy(update={"receipt": json.dumps(receipt)})

    rewrite(other / "preferences.parquet", 1, by_another)
    with pytest.raises(RecordError, match=r"label 'q4' was made differently: judge: .*, larger \("):
        merge([one, other], tmp_path / "out")


def test_labels_without_receipts_are_refused(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 3, 5)
    rewrite(other / "preferences.parquet", 1, lambda row: row.model_copy(update={"receipt": ""}))

    with pytest.raises(RecordError, match="label 'q4' has no receipt"):
        merge([one, other], tmp_path / "out")


def test_pairs_without_a_label_are_kept_unless_a_source_has_one(tmp_path: Path) -> None:
    """Both sources could not judge q3; the first one could not judge q2, either."""

    def without(places: set[int], folder: Path) -> Path:
        asked = [
            replace(pair, response_a=" ") if place in places else pair
            for place, pair in enumerate(pairs(4))
        ]
        label(asked, judge(), folder, options=JudgeOptions(interactive=False))
        return folder

    one, other = without({2, 3}, tmp_path / "one"), without({3}, tmp_path / "other")

    done = merge([one, other], tmp_path / "out")

    assert done == MergedLabels(labels=3, repeated=2, unjudged=1)
    assert read_unjudged(tmp_path / "out" / "preferences.parquet") == {"empty_response": 1}


def test_the_rules_beside_a_source_are_taken_along(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 3, 5)
    (other / "constitution.yaml").write_text("name: made\n")

    merge([one, other], tmp_path / "out")

    assert (tmp_path / "out" / "constitution.yaml").read_text() == "name: made\n"


def test_one_source_is_refused_and_so_is_a_folder_with_labels(tmp_path: Path) -> None:
    one = made(tmp_path / "one", 0, 3)

    with pytest.raises(UserError, match="expected at least 2 files or folders of labels, found 1"):
        merge([one], tmp_path / "out")
    with pytest.raises(UserError, match="exists already; choose another folder with --out"):
        merge([one, one], one)


def test_memory_is_a_byte_a_row(tmp_path: Path) -> None:
    """What grows with the rows, past two batches of a thousand: 1500 labels take three
    megabytes in memory."""
    one, other = made(tmp_path / "one", 0, 1), tmp_path / "other.parquet"
    (row,) = read_preferences(one / "preferences.parquet")

    def numbered(n: int) -> Preference:
        chosen = (row.chosen[0].model_copy(update={"content": f"answer {n}"}),)
        return row.model_copy(update={"id": f"n{n}", "chosen": chosen})

    def peak(rows: int) -> int:
        write_preferences(other, map(numbered, range(rows)), row.traits.keys())
        tracemalloc.start()
        done = merge([one, other], tmp_path / f"out-{rows}")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done.labels == 1 + rows
        return size

    assert peak(4500) - peak(3000) < 1_000_000


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", 0, 3), made(tmp_path / "other", 2, 5)
    command = ["labels", "merge", str(one), str(other), "--out", str(tmp_path / "out")]

    shown = CliRunner().invoke(app, command)

    assert shown.exit_code == 0, shown.output
    assert "5 labels of 2 sources" in shown.output
    assert "1 were there twice, 0 pairs without a label" in " ".join(shown.output.split())
