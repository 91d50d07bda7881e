"""The recipe `constitutional` as it ships, small: a planted judge that writes, a tiny model, and
kill -9 inside both halves of the stage `revise`.

The judge is simulated by rules; server, client, sampling, training and report are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.planted.grammar import prompts
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.records import write_jsonl
from rlaif.feedback.receipts import parse_receipt
from tests.rlaif.report.pages import text_of
from tests.support.training.tiny_model import save_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[4]
PLANTED = ROOT / "benchmarks" / "planted"
TRAINED = {"max_tokens": 256, "batch_size": 4, "lora.rank": 2}
SAMPLED = {"engine": "transformers", "max_new_tokens": 12}
SMALL = {
    **{f"{s}.{key}": value for s in ("sft", "reward", "dpo") for key, value in TRAINED.items()},
    **{
        f"{s}.{key}": value
        for s in ("drafts", "helpful", "samples", "ppo", "responses")
        for key, value in SAMPLED.items()
    },
    "sft.steps": 4, "reward.epochs": 1, "dpo.epochs": 1, "ppo.iterations": 1,
    "ppo.lora.rank": 2, "ppo.max_tokens": 256, "ppo.prompts_per_iteration": 2, "ppo.group_size": 2,
    "system": "Be brief.",
}  # fmt: skip

# Runs the command line, and kills itself after so many entries of this journal.
DRIVER = """
import os, signal, sys
from rlaif.cli.main import app
from rlaif.data.journal import Journal

name, most, *words = sys.argv[1:]
append, seen = Journal.append, []

def deadly(self, entry):
    place = append(self, entry)
    if self.path.name == name:
        seen.append(place)
        if len(seen) == int(most):
            os.kill(os.getpid(), signal.SIGKILL)
    return place

if __name__ == "__main__":
    Journal.append = deadly
    sys.argv[1:] = words
    app()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the run's folder, how the two killed processes and the last one ended, its output)."""
    root = tmp_path_factory.mktemp("constitutional")
    facts = yaml.safe_load((PLANTED / "judge.yaml").read_text())
    facts |= {"constitution": str(PLANTED / "constitution.yaml"), "skill": 0.8}
    (root / "judge.yaml").write_text(yaml.safe_dump(facts))
    write_jsonl(root / "prompts.jsonl", prompts(40, 12, seed=0))
    (root / "driver.py").write_text(DRIVER)
    settings = SMALL | {
        "policy": save_tiny_model(root / "model"),
        "judge": f"planted:{root / 'judge.yaml'}",
        "constitution": str(PLANTED / "constitution.yaml"),
        "prompts": str(root / "prompts.jsonl"),
    }
    words = ["run", "constitutional", "--out", str(root / "run")]
    words += [f"{key}={value}" for key, value in settings.items()]

    def drive(journal, entries):
        done = subprocess.run(
            [sys.executable, str(root / "driver.py"), journal, str(entries), *words], cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    deaths = drive("revisions.journal.jsonl", 5), drive("gate.journal.jsonl", 3)
    return root / "run", deaths, drive("", 0)


def test_killed_in_the_rounds_and_in_the_gate_it_goes_on_to_the_end(run):
    folder, deaths, (code, output) = run
    assert [death[0] for death in deaths] == [-signal.SIGKILL] * 2, deaths
    assert code == 0, output
    assert "drafts  finished before, skipped" in output
    for journal in ("revisions.journal.jsonl", "gate.journal.jsonl"):
        lines = (folder / "revisions" / journal).read_text().splitlines()
        keys = [json.loads(line)["key"] for line in lines]
        assert len(keys) == len(set(keys)), f"{journal}: nothing was asked twice"


def test_lessons_pairs_and_refused_revisions_add_up(run):
    folder = run[0] / "revisions"
    summary = json.loads((folder / "revisions.summary.json").read_text())
    lessons, pairs = (
        read_lessons(folder / "lessons.jsonl"),
        read_preferences(folder / "pairs.parquet"),
    )
    refused = (folder / "unrevised.jsonl").read_text().splitlines()
    assert len(lessons) == len(pairs) == summary["lessons"] > 0
    assert len(refused) == sum(summary["refused_by_reason"].values())
    assert len(lessons) + len(refused) == summary["samples"]
    assert summary["by_kind"].keys() == {"harmful"}, "of the grammar's kinds, those asked for"
    assert all(pair.prob_chosen >= 0.55 for pair in pairs)
    assert parse_receipt(pairs[0]).provenance.model.name == "planted:judge"


def test_terminal_and_report_say_what_became_of_the_revisions(run):
    folder, _, (_, output) = run
    page = text_of((folder / "report.html").read_text())
    assert "revisions are lessons; refused:" in output
    assert "revisions are lessons; refused:" in page
    assert "Planted: planted:judge is a simulated judge" in page
    gold = json.loads((folder / "compare" / "gold.json").read_text())
    assert [each["name"] for each in gold["policies"]] == ["start", "sft", "dpo", "ppo"]
