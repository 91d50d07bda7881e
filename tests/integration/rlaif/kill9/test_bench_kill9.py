"""kill -9 in the middle of `rlaif judge bench`: what was read is not read again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.bench.judge import COMPARISONS
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

QUESTIONS = 1500


def gold(folder: Path) -> Path:
    """Questions whose right response names a number, which the planted judge prefers."""
    path = folder / "gold.jsonl"
    rows = [
        {"prompt": f"question {n}", "chosen": f"It is {n}. Good luck!", "rejected": "It is much."}
        for n in range(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_killed_bench_goes_on_where_it_stopped(tmp_path: Path) -> None:
    judge, out = judge_file(tmp_path), tmp_path / "out"
    command = [
        sys.executable, "-m", "rlaif", "judge", "bench", str(gold(tmp_path)),
        "--judge", f"planted:{judge}", "-c", str(CONSTITUTION), "--out", str(out),
        "--obedience", "0", "--json",
    ]  # fmt: skip
    journal = out / COMPARISONS

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: lines() >= 50, 300)
    first.kill()
    first.wait(60)
    kept = journal.read_bytes()[: journal.read_bytes().rfind(b"\n") + 1]
    assert 50 <= kept.count(b"\n") < QUESTIONS
    assert not (out / "bench.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    assert journal.read_bytes().startswith(kept)
    assert lines() == QUESTIONS
    printed = json.loads(again.stdout)
    (result,) = printed["results"]
    assert result["figures"][0]["estimate"]["value"] == 1.0
    assert result["cost"]["seconds"] is None
    assert json.loads((out / "bench.json").read_text()) == printed
