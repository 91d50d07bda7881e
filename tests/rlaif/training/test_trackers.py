"""Trackers: asked for and absent, reported; present, handed every number and closed."""

from __future__ import annotations

import importlib.util
import json

import accelerate.tracking
import pytest

from rlaif.distributed.processes import ProcessGroup
from rlaif.training.config import TrainConfig
from rlaif.training.run import Run
from rlaif.training.trackers import TrackerError, Trackers, flat


class KeptTracker:
    """Stands where accelerate's stand: keeps what it is handed."""

    made: list[KeptTracker] = []  # noqa: RUF012

    def __init__(self, name, folder="", /, **arguments):
        self.name, self.arguments, self.heard = name, arguments, []
        KeptTracker.made.append(self)

    def start(self):
        self.heard.append("start")

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step):
        self.heard.append((step, dict(values)))

    def finish(self):
        self.heard.append("finish")


@pytest.fixture
def kept(monkeypatch):
    """Both trackers as if installed."""
    KeptTracker.made = []
    monkeypatch.setattr(accelerate.tracking, "TensorBoardTracker", KeptTracker)
    monkeypatch.setattr(accelerate.tracking, "WandBTracker", KeptTracker)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return KeptTracker.made


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_an_absent_package_is_reported_before_training_with_the_extra_to_install(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrackerError, match=rf"{name} is not .*pip install .*\[track\]'"):
        Run(tmp_path, {}, TrainConfig(trackers=(name,)), ProcessGroup(0, 1))


def test_every_number_arrives_under_its_step_and_the_rest_stays_out(kept, tmp_path):
    inputs = {"algorithm": "dpo", "config": {"beta": 0.1, "lora": {"targets": ["q", "v"]}}}
    run = Run(tmp_path, inputs, TrainConfig(trackers=("tensorboard", "wandb")), ProcessGroup(0, 1))
    assert kept == []  # a dashboard is opened when there is something to show
    run.log(41, {"loss": 0.5, "accuracy": None})
    run.log(42, {"loss": 0.4, "accuracy": 1.0})
    run.finish()
    run.finish()
    board, wandb = kept
    reported = ["start", (41, {"loss": 0.5}), (42, {"loss": 0.4, "accuracy": 1.0}), "finish"]
    assert board.heard == wandb.heard == reported
    assert board.arguments == {"purge_step": 41}  # what a kill left of later steps goes
    assert wandb.arguments["resume"] == "allow"
    assert board.settings == {
        "algorithm": "dpo", "config.beta": 0.1, "config.lora.targets": '["q", "v"]',
    }  # fmt: skip


def test_wandb_takes_up_the_run_of_the_same_folder_and_inputs(kept, tmp_path):
    for inputs in ({"seed": 1}, {"seed": 1}, {"seed": 2}):
        trackers = Trackers(("wandb",), tmp_path, inputs)
        trackers.log(1, {"loss": 1.0})
    first, again, other = (tracker.arguments["id"] for tracker in kept)
    assert first == again != other


def test_a_tracker_that_cannot_start_names_the_remedy(kept, tmp_path, monkeypatch):
    def refused(self):
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(KeptTracker, "start", refused)
    with pytest.raises(TrackerError, match=r"no API key.*\); log in .* WANDB_MODE=offline"):
        Trackers(("wandb",), tmp_path, {}).log(1, {"loss": 1.0})


def test_the_real_tensorboard_shows_a_run_that_went_on_after_a_kill_as_one_curve(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    ProcessGroup.current()  # as every training begins
    for first, last, loss in ((1, 6, 1.0), (4, 8, 0.5)):  # killed at 6, its checkpoint was at 3
        trackers = Trackers(("tensorboard",), tmp_path, {"algorithm": "dpo"})
        for step in range(first, last + 1):
            trackers.log(step, {"loss": loss})
        trackers.finish()
    shown = reading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curve = [(point.step, point.value) for point in shown.Scalars("loss")]
    assert curve == [(step, 1.0 if step < 4 else 0.5) for step in range(1, 9)]


def test_the_real_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ProcessGroup.current()
    trackers = Trackers(("wandb",), tmp_path, {"algorithm": "dpo"})
    trackers.log(1, {"loss": 1.0})
    trackers.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_settings_are_shown_flat():
    assert flat({"a": {"b": 1, "c": None}, "d": [1], "e": "x"}) == {
        "a.b": 1, "a.c": None, "d": json.dumps([1]), "e": "x",
    }  # fmt: skip
