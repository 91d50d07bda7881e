"""A recipe killed with -9 inside every one of its stages ends as if it had never been killed.

Two DPO branches on one label stage, a third from merged files, and every other kind of stage, for
real on a tiny model. The judge's engine is a fake one behind a real server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training.killed import assert_same_outcome
from tests.support.training.tiny_model import save_tiny_model
from tests.support.training.tiny_run import judge_in_thread, tiny_files, tiny_recipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[4]
STAGES = (
    "samples", "labels", "attacks", "revisions", "sft", "sft-model", "reward", "dpo_soft",
    "dpo_hard", "dpo_files", "ppo", "rest", "best", "responses", "evaluation", "comparison",
    "answers", "round", "kept", "report",
)  # fmt: skip

# Kills itself in the named stage: as soon as the stage has written a file that was not there, and
# at the latest when its work is done but not marked as finished.
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from rlaif.feedback.client import judge_client
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.run import run

def main():
    recipe, folder, address, doomed = sys.argv[1:]
    RunContext.judge_client = lambda self, judge, constitution, log: judge_client(
        "", "", log, address
    )
    for kind in KINDS.values():
        kind.run = deadly(kind.run, doomed)
    run(Recipe.model_validate_json(Path(recipe).read_text()), Path(folder))

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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(folder of a run killed in every stage, folder of one never killed, the deaths)."""
    root = tmp_path_factory.mktemp("killed")
    files = tiny_files(root / "brought")
    recipe, driver = root / "recipe.json", root / "driver.py"
    recipe.write_text(tiny_recipe(save_tiny_model(root / "model"), files).model_dump_json())
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
        for doomed in STAGES:
            deaths[doomed] = drive(root / "killed", address, doomed)
        deaths[""] = drive(root / "killed", address, "")
        whole = drive(root / "whole", address, "")
    assert whole[0] == 0, whole[1]
    return root / "killed", root / "whole", deaths


@pytest.mark.parametrize("stage", STAGES)
def test_recipe_dies_in_the_stage_after_skipping_the_finished_ones(outcomes, stage):
    """The stage of the death before goes on where it was, those before it were finished."""
    code, output = outcomes[2][stage]
    assert code == -signal.SIGKILL, output
    *finished, killed = STAGES[: STAGES.index(stage)] or (None,)
    for before in finished:
        assert f" {before}  finished before, skipped" in output
    assert killed is None or f" {killed}  finished before, skipped" not in output


def test_recipe_finishes_after_all_its_deaths(outcomes):
    code, output = outcomes[2][""]
    assert code == 0, output
    assert "report: " in output
    assert "dpo_files" in output


def test_recipe_has_the_same_labels_weights_and_responses_as_one_never_killed(outcomes):
    killed, whole, _ = outcomes
    files = ("samples/samples.jsonl", "labels/preferences.parquet", "attacks/failures.jsonl",
             "attacks/twins.jsonl", "revisions/lessons.jsonl", "revisions/pairs.parquet",
             "responses/ppo.jsonl")  # fmt: skip
    for name in files:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for stage in ("sft", "reward", "dpo_soft", "dpo_hard", "dpo_files", "ppo", "rest"):
        assert_same_outcome(killed / stage, whole / stage)


def test_recipe_leaves_no_half_written_file_behind(outcomes):
    killed, whole, _ = outcomes
    kept = {str(p.relative_to(killed)) for p in killed.rglob("*") if p.is_file()}
    expected = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
    assert kept == expected
