"""A rollout worker in an actor, without a cluster: its answers, its errors, its end."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rlaif.distributed.actors import LostActorError, RayActors
from rlaif.generation.base import SamplingError
from rlaif.generation.remote.protocol import DeadWorkerError, WorkerSpec
from rlaif.generation.remote.ray_worker import HolderActor, RayWorker


class ActorHere:
    """A fake of an actor's handle: the object lives in this process. lost: it has died."""

    def __init__(self, held: Any) -> None:
        self.held, self.lost, self.ended = held, False, 0

    def call(self, method: str, *arguments: Any) -> Any:
        if self.lost:
            raise LostActorError("the node is gone")
        return getattr(self.held, method)(*arguments)

    def end(self) -> None:
        self.ended += 1


class ActorsHere(RayActors):
    """A fake cluster: this process."""

    def place(self, kind: type, *arguments: Any) -> Any:
        return ActorHere(kind(*arguments))


def spec_of(model: Path) -> WorkerSpec:
    return WorkerSpec(str(model), "transformers", "float32", None, 64, 0.1, "files", [2])


def test_a_worker_whose_model_is_missing_says_so_and_where(tmp_path: Path) -> None:
    worker = RayWorker(ActorsHere("local"), spec_of(tmp_path / "no-model"))
    with pytest.raises(SamplingError, match=rf"no-model.*on {os.uname().nodename}"):
        worker.start()


def test_an_actor_that_is_gone_is_a_dead_worker(tmp_path: Path) -> None:
    worker = RayWorker(ActorsHere("local"), spec_of(tmp_path))
    with pytest.raises(DeadWorkerError, match="it is stopped"):
        worker.ask({"do": "look"})
    actor: Any = ActorHere(HolderActor(asdict(worker.spec)))
    worker._actor = actor
    actor.lost = True
    with pytest.raises(DeadWorkerError, match="the node is gone"):
        worker.ask({"do": "look"})
    worker.stop()
    worker.stop()
    assert actor.ended == 1


def test_an_actor_forgets_the_variables_of_the_trainers_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("HOME_OF_A_TEST", "kept")
    answer = HolderActor(asdict(spec_of(tmp_path / "no-model"))).answer({"do": "open"})
    assert "no-model" in answer["error"]
    assert not {"RANK", "FSDP_VERSION"} & set(os.environ)
    assert os.environ["HOME_OF_A_TEST"] == "kept"
