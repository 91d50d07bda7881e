"""The optimizer: its learning rates by step, and which weights decay."""

from __future__ import annotations

import copy

import pytest
import torch

from rlaif.distributed.processes import ProcessGroup
from rlaif.training.config import TrainConfig
from rlaif.training.learner import Learner

ALONE = ProcessGroup(rank=0, count=1)


def test_the_learning_rate_rises_to_its_peak_then_falls():
    learner = Learner([({"w": torch.zeros(1)}, 0.9)], 10, TrainConfig(warmup=0.2), ALONE)
    rates = [learner.schedule(step) for step in range(1, 11)]
    assert rates == pytest.approx([0.45, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_every_group_follows_the_same_shape(schedule):
    groups = [({"policy": torch.zeros(2, 2), "bias": torch.zeros(2)}, 1e-3)]
    groups += [({"value": torch.zeros(1, 2)}, 1e-2)]
    learner = Learner(groups, 12, TrainConfig(schedule=schedule, warmup=0.25), ALONE)
    for step in range(1, 13):
        rate = learner.schedule(step)
        used = [group["lr"] for group in learner.optimizer.param_groups]
        assert used == pytest.approx([rate, rate, 10 * rate])
    assert learner.schedule(3) == 1e-3  # exactly


def learner_of(weight_decay: float) -> Learner:
    names = {
        "norm.weight": torch.full((2,), 4.0), "layer.weight": torch.full((2, 2), 4.0),
        "layer.bias": torch.full((2,), 4.0), "head": torch.full((1, 2), 4.0),
    }  # fmt: skip
    config = TrainConfig(weight_decay=weight_decay, schedule="constant", warmup=0.0)
    return Learner([(names, 0.1)], 5, config, ALONE)


def stepped(learner: Learner) -> dict[str, torch.Tensor]:
    """The parameters after a step whose gradient is 0: only decay moves them."""
    learner.schedule(1)
    for parameter in learner.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    learner.step("here")
    return learner.parameters


def test_weight_decay_takes_its_share_of_matrices_and_leaves_biases_and_norms():
    found = stepped(learner_of(0.5))
    # 4 · (1 - 0.1 · 0.5)
    assert {name: value.flatten()[0].item() for name, value in found.items()} == pytest.approx(
        {"layer.weight": 3.8, "head": 3.8, "norm.weight": 4.0, "layer.bias": 4.0}
    )


def test_without_weight_decay_nothing_moves_that_has_no_gradient():
    assert all((value == 4).all() for value in stepped(learner_of(0.0)).values())


def test_a_state_loads_into_another_learner_by_name():
    one, other = learner_of(0.5), learner_of(0.5)
    for number, parameter in enumerate(one.parameters.values(), start=1):
        parameter.grad = torch.full_like(parameter, number / 10)
    one.step("here")
    other.load(copy.deepcopy(one.state()))  # as from a file
    for learner in (one, other):
        for number, parameter in enumerate(learner.parameters.values(), start=1):
            parameter.grad = torch.full_like(parameter, -number / 10)
        learner.step("here")
    assert one.parameters.keys() == other.parameters.keys()
    assert all(torch.equal(one.parameters[n], other.parameters[n]) for n in one.parameters)
