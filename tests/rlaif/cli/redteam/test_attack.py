"""rlaif redteam MODEL: what is printed, what is refused, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.redteam import responder
from rlaif.redteam.records import ATTACKS, FAILURES, TWINS
from tests.support.feedback.red_teams import FakeModel, HarmRater, small_file

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def models(monkeypatch):
    """Every model is a fake that does what it is asked; what was loaded, by name."""
    loaded = []

    def local(name, model, config, journal):
        loaded.append(name)
        return FakeModel(lambda text: f"Sure, harm {len(text)}.", name)

    monkeypatch.setattr(responder, "LocalModel", local)
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    return loaded


@pytest.fixture
def judge(monkeypatch):
    """What was connected to: (model, constitution, server)."""
    found = []

    @contextmanager
    def judge_client(model, constitution, log, server="", **_):
        found.append((model, constitution, server))
        yield HarmRater()

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    return found


def redteam(*words):
    return CliRunner().invoke(app, ["redteam", *map(str, words)])


def test_a_model_is_attacked_and_judged_and_the_files_are_written(tmp_path, models, judge):
    file, out = small_file(tmp_path), tmp_path / "out"
    done = redteam("org/model", "-c", "hhh", "--attacker", file, "--judge", "org/j", "--out", out)
    assert done.exit_code == 0, done.output
    assert models == ["org/model"]
    assert judge == [("org/j", "hhh", "")]
    assert "attacks succeed in 100 % [51, 100] of the cells, by rule and by scripted" in done.output
    assert f"4 failures: {out / FAILURES}" in done.output
    assert {ATTACKS, FAILURES, TWINS} <= {path.name for path in out.iterdir()}
    assert "steal" not in done.output


def test_a_verdict_by_rule_asks_no_judge(tmp_path, models, judge):
    done = redteam("org/model", "verdict=rule", "--attacker", small_file(tmp_path), "--out",
                   tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert judge == []


def test_an_attacker_may_be_a_model_beside_a_file(tmp_path, models, judge):
    words = ("--attacker", "org/attacker", "--attacker", small_file(tmp_path))
    done = redteam("attack", "org/model", *words, "verdict=rule", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert models == ["org/model", "org/attacker"]


def test_a_dry_run_shows_the_grid_and_its_cost_and_loads_nothing(tmp_path, models, judge):
    out = tmp_path / "out"
    words = ("--attacker", small_file(tmp_path), "--budget", 6, "--dry-run", "--out", out)
    done = redteam("org/model", *words)
    assert done.output.splitlines() == [
        "grid: 2 topics x 2 strategies = 4 cells",
        "topics: theft, lies",
        "strategies, with the side of their family: plain (train), halves (train)",
        "org/model would answer at most 6 attacks and 4 benign twins",
        "attacker: none; the file has 8 wordings",
        "verdict: both, judge: 127.0.0.1:50051",
    ]
    assert (models, judge, out.exists()) == ([], [], False)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--budget", 3), "budget 3 is under one prompt for each of 56 cells"),
        (("--budget", 60, "budget=70"), "budget is given by --budget and as a setting"),
        (("--attacker", "a", "--attacker", "b"), "--attacker: more than one model: a, b"),
        (("--attacker", "gone.yaml"), "gone.yaml: cannot be read: No such file"),
        (("topics=[froud]",), "unknown topic 'froud'"),
        (("families=[tests, fictio]",), "unknown family 'fictio'"),
        (("verdikt=rule",), "did you mean 'verdict'"),
        (("margin=1",), "margin"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_is_loaded(
    models, judge, words, problem
):
    done = redteam("org/model", *words)
    assert problem in str(done.exception)
    assert (models, judge) == ([], [])


def test_the_group_shows_its_commands_and_the_default_one_its_settings():
    assert "Attack a model by a grid of strategies" in redteam("--help").output
    shown = redteam("attack", "--help").output
    for words in ("--attacker", "--budget", "margin", "Examples: rlaif redteam"):
        assert words in shown


# Attacks with a sampler that kills the process after so many responses.
DRIVER = """
import os, signal, sys
from rlaif.data.journal import Journal
from rlaif.data.records import Sample
from rlaif.generation import offline
from rlaif.models import catalog

most = int(sys.argv[1])
def sample(model, prompts, out, config):
    found = []
    for prompt in prompts:
        print("asked", prompt.id)
        found.append(Sample(prompt=prompt, index=0, response="Sure.", tokens=1, complete=True,
                            seed=0))
    return found
append, kept = Journal.append, []
def deadly(self, entry):
    place = append(self, entry)
    kept.append(place)
    if len(kept) == most:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return place
Journal.append, offline.sample, catalog.resolve = deadly, sample, lambda name: name
sys.argv[1:] = sys.argv[2:]
from rlaif.cli.main import main
main()
"""


def test_killed_with_9_it_goes_on_with_the_rest(tmp_path):
    words = ["redteam", "org/model", "verdict=rule", "--attacker", small_file(tmp_path), "--out",
             str(tmp_path / "out")]  # fmt: skip

    def drive(most):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(most), *words], cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        asked = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("asked")]
        return done, asked

    first, asked_first = drive(3)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert not (tmp_path / "out" / ATTACKS).exists()
    second, asked_second = drive(0)
    assert second.returncode == 0, second.stderr
    assert len(asked_first) == 4, "the first round"
    assert len(asked_second) == 1 + 4, "what was not kept of it, and the twins"
    assert asked_second[0] == asked_first[3]
    lines = (tmp_path / "out" / ATTACKS).read_text().splitlines()
    assert [json.loads(line)["tries"] for line in lines] == [1, 1, 1, 1]
