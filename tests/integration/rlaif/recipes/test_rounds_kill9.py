"""Rounds killed with -9 in every one of them end as if they had never been killed, and read no pair
twice.

Iterative DPO in two rounds for real on a tiny model; the judge's engine is a fake one behind a real
server, which counts its reads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlaif.pipeline.recipe import Recipe
from tests.support.fakes import FakeEngine
from tests.support.service.thread_server import serving_in_thread
from tests.support.training.killed import assert_same_outcome
from tests.support.training.tiny_model import save_tiny_model
from tests.support.training.tiny_run import SAMPLING, TINY, tiny_files

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[4]
DEATHS = ("round-01/dpo", "round-01/evaluation", "round-02/labels", "round-02/evaluation", "dpo")

# Runs the recipe once for every named stage, in a forked child that has everything imported. The
# child kills itself in that stage: as soon as it has written a file that was not there, and at the
# latest when its work is done but not marked as finished.
DRIVER = """
import json, os, signal, sys, threading
from pathlib import Path
import peft, torch, transformers
import rlaif.algorithms.dpo.train, rlaif.evaluation.judges.whole, rlaif.feedback.labeler
import rlaif.generation.transformers, rlaif.models.merge, rlaif.models.sample_logprobs
import rlaif.report.page
from benchmarks.planted.sampling import sampling_here
from rlaif.feedback.client import judge_client
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline import run as pipeline

def main():
    recipe, *runs = sys.argv[1:]
    deaths = []
    for place, (folder, address, doomed) in enumerate(each.split("|") for each in runs):
        log = Path(f"{folder}.{place}.log")
        child = os.fork()
        if not child:
            out = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            try:
                live(recipe, folder, address, doomed)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        deaths.append([Path(folder).name, doomed, code, log.read_text()])
    print(json.dumps(deaths))

def live(recipe, folder, address, doomed):
    RunContext.judge_client = lambda self, judge, constitution, log: judge_client(
        "", "", log, address
    )
    for kind in KINDS.values():
        kind.run = deadly(kind.run, doomed)
    with sampling_here():
        pipeline.fit_to_machine = lambda recipe, *given: recipe
        pipeline.run(Recipe.model_validate_json(Path(recipe).read_text()), Path(folder))

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


def tiny_rounds(model: str, files: dict[str, str]) -> Recipe:
    stages = {
        "samples": {"kind": "sample", "model": "policy", **SAMPLING},
        "labels": {"kind": "label", "samples": "samples"},
        "dpo": {"kind": "dpo", "model": "policy", "labels": "labels", **TINY},
        "report": {"kind": "report"},
    }
    return Recipe.model_validate(
        {
            "name": "tiny_rounds",
            "models": {"policy": model, "judge": "org/judge"},
            "constitution": files["constitution"],
            "prompts": files["prompts"],
            "stages": stages,
            "rounds": {"count": 2, "stop": None},
        }
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(folder of the killed run, of one never killed, the deaths, reads of both)."""
    root = tmp_path_factory.mktemp("rounds")
    files = tiny_files(root / "brought")
    recipe, driver = root / "recipe.json", root / "driver.py"
    recipe.write_text(tiny_rounds(save_tiny_model(root / "model"), files).model_dump_json())
    driver.write_text(DRIVER)

    engines = {"killed": FakeEngine(), "whole": FakeEngine()}
    with ExitStack() as servers:
        runs = []
        for name, stages in (("killed", (*DEATHS, "")), ("whole", ("",))):
            served = serving_in_thread(engines[name], constitutions=(files["constitution"],))
            address, _ = servers.enter_context(served)
            runs += [f"{root / name}|{address}|{stage}" for stage in stages]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(driver), str(recipe), *runs], cwd=root,
            env=dict(os.environ) | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    deaths = {(name, stage): (code, output) for name, stage, code, output in found}
    reads = {name: [str(prompt) for prompt in each.prompts] for name, each in engines.items()}
    assert deaths["whole", ""][0] == 0, deaths["whole", ""][1]
    return root / "killed", root / "whole", deaths, reads


@pytest.mark.parametrize("stage", DEATHS)
def test_rounds_die_in_the_stage_and_go_on_there(outcomes, stage):
    code, output = outcomes[2]["killed", stage]
    assert code == -signal.SIGKILL, output
    place = DEATHS.index(stage)
    if place:
        assert f" {DEATHS[place - 1]}  finished before, skipped" not in output
    for before in DEATHS[: max(0, place - 1)]:
        assert f" {before}  finished before, skipped" in output


def test_rounds_end_as_if_they_had_never_been_killed(outcomes):
    killed, whole, deaths, _ = outcomes
    assert deaths["killed", ""][0] == 0, deaths["killed", ""][1]
    for name in ("round-02/samples/samples.jsonl", "round-02/labels/preferences.parquet",
                 "round-02/answers/samples.jsonl", "round-02/evaluation/round.json",
                 "dpo/rounds.json", "dpo/model.safetensors"):  # fmt: skip
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for number in (1, 2):
        assert_same_outcome(killed / f"round-0{number}/dpo", whole / f"round-0{number}/dpo")
    kept = {str(p.relative_to(killed)) for p in killed.rglob("*") if p.is_file()}
    assert kept == {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}


def test_rounds_read_no_prompt_twice(outcomes):
    """A kill may lose an answer that is on its way; a run that is never killed reads each once."""
    killed, whole = (outcomes[3][name] for name in ("killed", "whole"))
    assert len(whole) == len(set(whole)) > 0
    assert set(killed) == set(whole)
    assert len(killed) - len(set(killed)) <= 2 * len(DEATHS) * 8
