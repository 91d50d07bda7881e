"""Comparisons of methods for real: a planted one by the command, and a tiny one that is killed.

The planted judge is simulated by rules, and the killed comparison's engine is a fake one behind a
real server; everything else is real. It dies in one stage of each sort, with RLAIF_FULL=1 in all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.planted.grammar import prompts
from benchmarks.planted.policy import save_policy
from rlaif.comparing.result import MethodComparison
from rlaif.data.records import write_jsonl
from tests.rlaif.report.pages import text_of
from tests.support.training.killed import assert_same_outcome
from tests.support.training.tiny_model import save_tiny_model
from tests.support.training.tiny_run import SAMPLING, TINY, judge_in_thread, tiny_files

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[4]
SMALL = (
    "train_prompts=40", "heldout_prompts=20", "samples.n=2", "labels.pairs_per_prompt=1",
    "reward.epochs=1", "dpo.epochs=1", "responses.n=1",
)  # fmt: skip


def test_a_planted_comparison_ends_with_a_line_a_table_and_a_page(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    save_policy(policy, steps=40)
    write_jsonl(tmp_path / "prompts.jsonl", prompts(40, 20, seed=0))
    files = (f"policy={policy}", f"prompts={tmp_path / 'prompts.jsonl'}")
    options = ("--arms", "dpo,best_of_n", "--seeds", "2", "--budget", "reads=240")
    options = (*options, "--budget", "seconds=600", "--out", str(tmp_path / "run"))
    recipe = "benchmarks/planted/recipe.yaml"
    command = [sys.executable, "-m", "rlaif", "compare", recipe, *files, *SMALL, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    found = MethodComparison.load(tmp_path / "run" / "comparison" / "comparison.json")
    assert [arm.name for arm in found.arms] == ["start", "dpo", "best_of_n"]
    assert [len(arm.trainings) for arm in found.arms] == [0, 2, 0]
    assert found.last_line.startswith("Planted: ")
    assert found.last_line in done.stdout
    assert found.label_reads is not None
    assert found.label_reads <= 240
    dpo = found.arms[1]
    assert all(t.seconds > 0 and t.tokens > 0 and t.memory_gib > 0 for t in dpo.trainings)
    assert dpo.text_nll is not None
    assert dpo.kl is not None
    page = (tmp_path / "run" / "comparison.html").read_text()
    assert found.last_line in text_of(page)


# ── killed ───────────────────────────────────────────────────────────────────────────────────

FULL = (
    "samples", "labels", "reward", "dpo-0", "rloo-1", "best_of_n-1", "responses", "evaluation",
    "comparison",
)  # fmt: skip
DOOMED = FULL if os.environ.get("RLAIF_FULL") == "1" else ("rloo-1", "best_of_n-1", "comparison")

# Kills itself in the named stage: as soon as the stage has written a file that was not there, and
# at the latest when its work is done but not marked as finished.
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from rich.console import Console
from rlaif.feedback.client import judge_client
from rlaif.pipeline.comparing.budget import Budget
from rlaif.pipeline.comparing.plan import ComparisonRequest
from rlaif.pipeline.comparing.run import compare
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe

def main():
    recipe, folder, address, doomed = sys.argv[1:]
    RunContext.judge_client = lambda self, judge, constitution, log: judge_client(
        "", "", log, address
    )
    for kind in KINDS.values():
        kind.run = deadly(kind.run, doomed)
    request = ComparisonRequest(("dpo", "rloo", "best_of_n"), 2, Budget(tokens=100_000))
    loaded = Recipe.model_validate_json(Path(recipe).read_text())
    compare(loaded, request, Path(folder), Console(width=200))

def deadly(work, doomed):
    def run(stage, context):
        if stage.name != doomed:
            return work(stage, context)
        before = set(stage.folder.rglob("*"))
        def watch():
            while set(stage.folder.rglob("*")) <= before:
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=watch, daemon=True).start()
        work(stage, context)
        os.kill(os.getpid(), signal.SIGKILL)
    return run

if __name__ == "__main__":
    main()
"""


def tiny_recipe(model: str, files: dict[str, str]) -> str:
    """A recipe with the stages that a comparison takes its settings from, as JSON."""
    trained = {"model": "policy", **TINY}
    ppo = {
        "kind": "ppo", "model": "policy", "reward": "reward", "engine": "transformers",
        "lora": {"rank": 2}, "max_tokens": 128, "iterations": 2, "prompts_per_iteration": 4,
        "group_size": 2, "max_new_tokens": 4,
    }  # fmt: skip
    stages: dict[str, Any] = {
        "samples": {"kind": "sample", "model": "policy", **SAMPLING},
        "labels": {"kind": "label", "samples": "samples"},
        "reward": {"kind": "reward", "labels": "labels", **trained},
        "dpo": {"kind": "dpo", "labels": "labels", **trained},
        "ppo": ppo,
        "best_of_n": {"kind": "best_of_n", "model": "policy", "reward": "reward", "n": 2},
        "responses": {"kind": "respond", "policies": ["policy", "dpo", "ppo", "best_of_n"],
                      **SAMPLING},
        "evaluation": {"kind": "evaluate", "responses": "responses"},
    }  # fmt: skip
    return json.dumps(
        {
            "name": "tiny",
            "models": {"policy": model, "judge": "org/judge"},
            "constitution": files["constitution"],
            "prompts": files["prompts"],
            "heldout_pairs": 0.3,
            "stages": stages,
        }
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(folder of a comparison killed in its stages, folder of one never killed, the deaths)."""
    root = tmp_path_factory.mktemp("killed")
    files = tiny_files(root / "brought")
    recipe, driver = root / "recipe.json", root / "driver.py"
    recipe.write_text(tiny_recipe(save_tiny_model(root / "model"), files))
    driver.write_text(DRIVER)

    def drive(folder, address, doomed):
        command = [sys.executable, str(driver), str(recipe), str(folder), address, doomed]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=root, env=dict(os.environ) | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    deaths = {}
    with judge_in_thread(files["constitution"]) as address:
        for doomed in DOOMED:
            deaths[doomed] = drive(root / "killed", address, doomed)
        deaths[""] = drive(root / "killed", address, "")
        whole = drive(root / "whole", address, "")
    assert whole[0] == 0, whole[1]
    return root / "killed", root / "whole", deaths


@pytest.mark.parametrize("stage", DOOMED)
def test_a_comparison_dies_in_the_stage_and_goes_on_after_the_finished_ones(outcomes, stage):
    code, output = outcomes[2][stage]
    assert code == -signal.SIGKILL, output
    died = DOOMED.index(stage)
    finished = FULL[: FULL.index(DOOMED[died - 1])] if died else ()
    for before in finished:
        assert f" {before}  finished before, skipped" in output


def test_a_comparison_has_the_same_weights_and_results_as_one_never_killed(outcomes):
    killed, whole, deaths = outcomes
    assert deaths[""][0] == 0, deaths[""][1]
    for stage in ("reward", "dpo-0", "dpo-1", "rloo-0", "rloo-1"):
        assert_same_outcome(killed / stage, whole / stage)
    for name in ("responses/best_of_n-1.jsonl", "responses/rloo-1.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert results(killed) == results(whole)


def results(run: Path) -> Any:
    """The comparison's results without what only a clock says."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            of_the_clock = {"seconds", "memory_gib", "reward_seconds", "last_line", "budget"}
            return {k: timeless(v) for k, v in value.items() if k not in of_the_clock}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    return timeless(json.loads((run / "comparison" / "comparison.json").read_text()))
