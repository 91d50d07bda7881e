"""The optimizer's learning rate by step."""

from __future__ import annotations

import pytest
import torch

from rlaif.distributed.processes import ProcessGroup
from rlaif.training.config import TrainConfig
from rlaif.training.learner import Learner

ALONE = ProcessGroup(rank=0, count=1)


def test_the_learning_rate_rises_then_falls_to_nothing():
    learner = Learner([({"w": torch.zeros(1)}, 1.0)], 10, TrainConfig(warmup=0.2), ALONE)
    rates = [learner.schedule(step) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
