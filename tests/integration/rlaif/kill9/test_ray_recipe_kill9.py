"""A recipe whose labels are made on a Ray cluster of this host: its run is killed, and resumes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlaif.data.datasets import read_preferences
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.service.server_process import ROOT
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_alone"),
]
pytest.importorskip("ray")

PAIRS, ROWS = 160, 4


def recipe_in(folder: Path) -> Path:
    rows = [
        {"prompt": f"question {n}", "responses": [f"In 19{n + 10}. Please ask.", "No. I. Cannot."]}
        for n in range(PAIRS)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "labels",
        "models": {"judge": f"planted:{judge_file(folder)}"},
        "constitution": str(CONSTITUTION),
        "prompts": "quickstart",
        "stages": {"labels": {"kind": "label", "samples": str(folder / "samples.jsonl")}},
    }
    path = folder / "labels.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def labels_in(run: Path) -> list[str]:
    rows = read_preferences(run / "labels" / "preferences.parquet")
    return [row.model_dump_json(exclude={"receipt"}) for row in rows]


def test_a_killed_run_resumes_and_has_the_labels_of_a_run_without_a_fleet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlaif", "run", str(recipe_in(tmp_path)), "--out"]
    fleet = [f"fleet={{ray: local, workers: 1, rows: {ROWS}}}"]
    shared, alone, log = tmp_path / "shared", tmp_path / "alone", tmp_path / "run.log"

    def made() -> int:
        return len(list(shared.glob("labels/shards/*/out/*.parquet")))

    with log.open("w") as output:
        run = subprocess.Popen(
            [*command, str(shared), *fleet], stdout=output, stderr=output, cwd=ROOT
        )
    try:
        wait_until(lambda: made() >= 1 or run.poll() is not None, 300)
        assert run.poll() is None, log.read_text()
    finally:
        run.kill()
        run.wait(60)
    before = made()
    assert before < 2 * PAIRS // ROWS, "killed at work"

    again = subprocess.run(
        [*command, str(shared), *fleet], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    found = re.search(r"labels: 80 of 80 shards, (\d+) made by this run", again.stderr)
    assert found, again.stderr
    assert 0 < int(found[1]) <= 80 - before  # a worker may outlive its driver by a shard
    assert "on the Ray cluster local" in " ".join(again.stdout.split())
    # Without a fleet: the same labels, and a stage that was made with one counts as finished.
    done = subprocess.run(
        [*command, str(alone)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert labels_in(shared) == labels_in(alone)
    assert len(labels_in(alone)) == PAIRS
    assert not (shared / "labels" / "shards").exists()
    skipped = subprocess.run(
        [*command, str(shared)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "finished before, skipped" in skipped.stdout, skipped.stderr
