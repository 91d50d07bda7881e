"""Rollout workers as actors of a Ray cluster of this host: one is killed, and nothing changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.algorithms.ppo.train import train
from rlaif.generation.base import SamplingError
from tests.support.rollouts.ppo_with_workers import QUESTIONS
from tests.support.rollouts.ray_actors import actors_of
from tests.support.training.ppo_runs import count_x, metrics, small
from tests.support.training.tiny_model import save_tiny_model
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.ray, pytest.mark.usefixtures("ray_alone")]
pytest.importorskip("ray")

KIND = "HolderActor"


def test_workers_on_ray_score_as_a_run_without_also_when_one_is_killed(tmp_path: Path) -> None:
    """Scores are equal, and the adapter within 1e-5."""
    torch.set_num_threads(1)
    model = save_tiny_model(tmp_path / "model")
    expected = train(small(iterations=3), model, QUESTIONS, count_x, tmp_path / "alone")
    killed: list[int] = []

    def kills_one(conversations: Any, responses: Sequence[str]) -> list[float | None]:
        if not killed:  # iteration 1 is drawn; the second one finds it dead
            actors = actors_of(os.getpid(), KIND)
            assert len(actors) == 2
            killed.append(actors[0])
            os.kill(killed[0], signal.SIGKILL)
        return count_x(conversations, responses)

    config = small(iterations=3, rollout_workers=2, rollout_ray="local")
    found = train(config, model, QUESTIONS, kills_one, tmp_path / "workers")
    assert [line["score"] for line in metrics(found)] == [m["score"] for m in metrics(expected)]
    assert [line["rollout_restarts"] for line in metrics(found)] == [0, 1, 1]
    file = "adapter_model.safetensors"
    one, other = load_file(found / file), load_file(expected / file)
    for name in other:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0)
    wait_until(lambda: not actors_of(os.getpid(), KIND))


def test_a_cluster_without_room_for_the_workers_is_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    config = small(rollout_workers=2, rollout_ray="local", rollout_gpus=1)
    with pytest.raises(SamplingError, match="have 0 GPUs, enough for 0 of 2 workers with 1 each"):
        train(config, model, QUESTIONS, count_x, tmp_path / "out")
