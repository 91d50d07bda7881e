"""A folder of prompts answered by a tiny model, in one process for all shards."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rlaif
from constitution.errors import UserError
from rlaif.data.samples import read_samples
from rlaif.generation import offline
from rlaif.sharding.run import Outcome

pytestmark = pytest.mark.integration

SETTINGS: dict[str, Any] = {
    "n": 2, "max_new_tokens": 4, "engine": "transformers", "dtype": "float32", "split": "train",
}  # fmt: skip


def test_shards_hold_the_responses_of_the_file_and_the_model_is_loaded_once(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Any] = []
    popen = subprocess.Popen

    def counted(*args: Any, **kwargs: Any) -> Any:
        starts.append(args)
        return popen(*args, **kwargs)

    monkeypatch.setattr(offline.subprocess, "Popen", counted)
    # Later prompts are longer, so that the model's room has to grow.
    file = tmp_path / "p.jsonl"
    rows = [{"prompt": "hello " * (1 + 9 * (n // 4)), "id": f"q{n}"} for n in range(8)]
    rows = [{**row, "split": "test" if row["id"] == "q7" else "train"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = rlaif.sample(file, model=tiny_model, out=tmp_path / "whole.jsonl", **SETTINGS)
    rlaif.split_shards(file, out=tmp_path / "p", rows=2)
    starts.clear()

    report = rlaif.sample_shards(
        tmp_path / "p", model=tiny_model, out=tmp_path / "s", prompts_per_chunk=1, **SETTINGS
    )

    assert report.outcomes == {Outcome.MADE: 4}
    assert len(starts) == 1
    assert read_samples(tmp_path / "s") == whole
    assert (report.counts["prompts"], report.counts["responses"]) == (7, 14)


def test_a_split_that_no_shard_has_is_an_error(tmp_path: Path, tiny_model: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "q", "split": "train"}\n')
    rlaif.split_shards(file, out=tmp_path / "p")

    with pytest.raises(UserError, match="no prompts of split 'dev' in any of its shards"):
        rlaif.sample_shards(
            tmp_path / "p", model=tiny_model, out=tmp_path / "s", **{**SETTINGS, "split": "dev"}
        )


def test_a_prompt_that_is_too_long_sets_its_shard_aside(tmp_path: Path, tiny_model: str) -> None:
    file = tmp_path / "p.jsonl"
    texts = ["short", "much too long " * 5000, "short again"]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    rlaif.split_shards(file, out=tmp_path / "p", rows=1)

    report = rlaif.sample_shards(
        tmp_path / "p", model=tiny_model, out=tmp_path / "s", **{**SETTINGS, "split": ""}
    )

    assert list(report.failed) == ["00001.parquet"]
    assert "is too long" in report.failed["00001.parquet"]
    assert report.there == 2
