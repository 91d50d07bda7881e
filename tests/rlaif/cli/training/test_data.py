"""`rlaif data convert` prints what it did, or would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.records import RecordError
from tests.support.data.public_rows import PUBLIC_ROWS

NECTAR = json.dumps(PUBLIC_ROWS["nectar"][0])


@pytest.fixture
def nectar(tmp_path: Path) -> Path:
    path = tmp_path / "nectar.jsonl"
    path.write_text(NECTAR, encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["data", "convert", *map(str, arguments)])
    if done.exception:
        raise done.exception
    return done.stdout


def test_convert_writes_the_pairs_and_names_what_it_left_aside(
    nectar: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.parquet"
    assert run(nectar, "--out", out).splitlines() == [
        f"{nectar}: 3 records (nectar); columns not used: good_natured, num_responses, source, "
        "turns",
        f"{out}: 3 records written",
    ]
    assert len(read_preferences(out)) == 3


def test_a_dry_run_of_convert_shows_three_records(nectar: Path, tmp_path: Path) -> None:
    output = run(nectar, "--out", tmp_path / "pairs.jsonl", "--from", "nectar", "--dry-run")
    assert output.count('"prob_chosen": 1.0') == 3
    assert "pairs.jsonl: 3 records would be written" in output
    assert not (tmp_path / "pairs.jsonl").exists()


def test_convert_to_lessons_writes_the_best_reply_to_each_message(tmp_path: Path) -> None:
    tree, out = tmp_path / "tree.jsonl", tmp_path / "lessons.jsonl"
    tree.write_text(json.dumps(PUBLIC_ROWS["oasst_trees"][0]), encoding="utf-8")
    said = run(tree, "--out", out, "--to", "lessons")
    assert f"{out}: 2 records written" in said
    assert "left out 1" in said


def test_convert_of_an_unknown_format_is_an_error_for_users(nectar: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="did you mean 'nectar'"):
        run(nectar, "--out", tmp_path / "x.jsonl", "--from", "nectr")
