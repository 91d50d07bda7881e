"""The recipe of benchmarks/planted, small: a planted judge's server, labels, trainers and report.

A planted judge is simulated by rules; everything else is real.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.planted.grammar import prompts
from benchmarks.planted.policy import save_policy
from rlaif.data.records import write_jsonl
from tests.rlaif.report.pages import text_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[4]
SMALL = (
    "train_prompts=40", "heldout_prompts=20", "samples.n=2", "reward.epochs=1", "dpo.epochs=1",
    "ppo.iterations=2", "ppo.prompts_per_iteration=4", "ppo.update_batch_size=8", "responses.n=1",
)  # fmt: skip


def test_the_planted_recipe_ends_with_gold_beside_labels_and_policies(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    save_policy(policy, steps=40)
    write_jsonl(tmp_path / "prompts.jsonl", prompts(40, 20, seed=0))
    files = (f"policy={policy}", f"prompts={tmp_path / 'prompts.jsonl'}")
    recipe = "benchmarks/planted/recipe.yaml"
    settings = (*files, *SMALL, "--out", str(tmp_path / "run"))
    command = [sys.executable, "-m", "rlaif", "run", recipe, *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "planted" in done.stdout

    labels = json.loads((tmp_path / "run" / "labels" / "gold.json").read_text())
    assert 0.5 < labels["accuracy"]["value"] < 1  # 80 % are right in the long run
    gold = json.loads((tmp_path / "run" / "evaluation" / "gold.json").read_text())
    assert [each["name"] for each in gold["policies"]] == ["start", "dpo", "ppo"]
    assert all(0 <= each["gold"]["value"] <= 1 for each in gold["policies"])
    page = text_of((tmp_path / "run" / "report.html").read_text())
    assert "planted" in page
