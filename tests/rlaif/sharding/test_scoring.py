"""A folder of samples scored into a folder of as many shards, which is one of samples again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

import rlaif
from constitution.errors import UserError
from rlaif.data.samples import read_samples
from rlaif.sharding.run import Outcome
from tests.rlaif.rewards.test_scoring import LENGTH


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    file = tmp_path / "samples.jsonl"
    rows = [{"prompt": f"q{n}", "responses": ["a" * (n + 1), "bb"]} for n in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=tmp_path / "samples", rows=4)
    return tmp_path / "samples"


def test_parts_score_what_a_file_is_scored(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    first = rlaif.score_shards(samples, reward=LENGTH, out=out, part="0/2")
    assert first.there < first.shards
    report = rlaif.score_shards(samples, reward=LENGTH, out=out)
    assert report.outcomes == {
        Outcome.FOUND: first.there,
        Outcome.MADE: report.shards - first.there,
    }
    assert report.counts == {"responses": 12.0, "scored": 12.0, "sum_score": 33.0}
    found = [s for f in sorted(out.glob("*.parquet")) for s in parquet.read_table(f)["score"]]
    assert [score.as_py() for score in found] == [1, 2, 2, 2, 3, 2, 4, 2, 5, 2, 6, 2]
    assert read_samples(out) == read_samples(samples)


def test_a_folder_of_another_reward_is_refused(samples: Path, tmp_path: Path) -> None:
    rlaif.score_shards(samples, reward=LENGTH, out=tmp_path / "scores")
    with pytest.raises(UserError, match="was made otherwise: reward"):
        rlaif.score_shards(samples, reward=f"0.5*{LENGTH}", out=tmp_path / "scores")


def test_a_function_that_other_processes_cannot_import_is_refused(
    samples: Path, tmp_path: Path
) -> None:
    def here(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        return [1.0] * len(responses)

    how: Any = here
    with pytest.raises(UserError, match="name a function as module:function"):
        rlaif.score_shards(samples, reward=how, out=tmp_path / "scores")
