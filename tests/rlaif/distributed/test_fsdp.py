"""Sharding in one process: which launches ask for it, what is read how, and batches of no rows.

Two real processes, sharded: tests/integration/rlaif/test_distributed.py.
"""

from __future__ import annotations

import os

import pytest
import torch

from rlaif.batching.encode import pad
from rlaif.batching.prefix_sharing import share
from rlaif.distributed import fsdp as sharding
from rlaif.distributed.fsdp import ShardingError
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.training.config import TrainConfig
from rlaif.training.learner import Learner

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}


@pytest.fixture
def launched(monkeypatch):
    """launched(NAME=value) sets what `accelerate launch` tells its processes."""

    def set_variables(**changed: str) -> None:
        for name, value in (FSDP2 | changed).items():
            monkeypatch.setenv(name, value)

    return set_variables


def whole(tiny_model: str) -> Backbone:
    backbone = Backbone.load(tiny_model, "float32", train_fully=True)
    backbone.add_role("policy", None, 0)
    return backbone


def test_fsdp2_is_asked_for_by_the_launcher_alone(launched):
    assert not sharding.asked()
    launched()
    assert sharding.asked()
    launched(WORLD_SIZE="1")  # nothing to cut it over
    assert not sharding.asked()


def test_what_accelerates_launcher_and_config_say_by_default_is_accepted(launched):
    launched(
        FSDP_MIN_NUM_PARAMS="100000000", FSDP_SHARDING_STRATEGY="FULL_SHARD",
        FSDP_OFFLOAD_PARAMS="false", FSDP_RESHARD_AFTER_FORWARD="true",
        FSDP_FORWARD_PREFETCH="false", FSDP_USE_ORIG_PARAMS="true",
        FSDP_CPU_RAM_EFFICIENT_LOADING="true", FSDP_SYNC_MODULE_STATES="true",
        FSDP_ACTIVATION_CHECKPOINTING="false", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_STATE_DICT_TYPE="FULL_STATE_DICT",
    )  # fmt: skip
    assert sharding.asked()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "more processes"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "micro_batch_tokens"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"),
        ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT", "FULL_STATE_DICT"),
        ("FSDP_RESHARD_AFTER_FORWARD", "SHARD_GRAD_OP", "true or false"),
    ],
)
def test_a_setting_of_fsdp_that_would_do_nothing_is_refused(name, value, remedy, launched):
    launched(**{name: value})
    with pytest.raises(ShardingError, match=f"{name}={value} .*{remedy}"):
        ProcessGroup.current()


def test_no_version_is_accelerates_version_1_and_refused(launched, monkeypatch):
    launched()
    monkeypatch.delenv("FSDP_VERSION")
    with pytest.raises(ShardingError, match=r"FSDP_VERSION=1 .*--fsdp_version 2"):
        sharding.asked()


def test_only_our_own_models_are_read_once_per_host(launched, monkeypatch):
    """A reward function's own would be zeros in the other processes."""
    launched(FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    monkeypatch.setenv("RLAIF_READ_ONCE", "")  # so that it is taken back after this test
    for _ in range(2):  # ProcessGroup.here() comes more than once
        sharding.set_reading_aside()
        assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
        with sharding.reading():
            assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
        assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ


def test_a_model_is_cut_only_over_the_workers_it_was_loaded_for(tiny_model, launched):
    launched()
    backbone = Backbone.load(tiny_model, "float32")  # with no process to tell anything
    backbone.shard(ProcessGroup(0, 2, sharded=True))
    assert not any(map(sharding.is_sharded, backbone.model.parameters()))


def test_a_sharded_process_makes_as_many_passes_as_the_one_with_most(monkeypatch):
    monkeypatch.setattr(ProcessGroup, "max", lambda self, value: 3.0)
    assert ProcessGroup(1, 2, sharded=True).pad_batches([[0, 2], [1]]) == [[0, 2], [1], []]
    assert ProcessGroup(1, 2).pad_batches([[0, 2], [1]]) == [[0, 2], [1]]


@pytest.mark.parametrize("lora", [None, LoraConfig()])
def test_a_batch_of_no_rows_reaches_every_weight_and_changes_none(lora, tiny_model):
    backbone = Backbone.load(tiny_model, "float32", train_fully=lora is None)
    backbone.add_role("policy", lora, 0)
    sums = backbone.response_sums("policy", share([]))
    assert sums.logprobs.shape == sums.tokens.shape == (0,)
    ends = backbone.ends("policy", share([]))
    assert ends.shape == (0, 32)
    values = backbone.logprobs("policy", pad([]))
    assert values.shape == (0, 1)
    for output in (sums.logprobs, ends, values):
        output.sum().backward()
        for name, parameter in backbone.role_parameters("policy").items():
            assert parameter.grad is not None, name  # or the others would wait for it
            assert not parameter.grad.any(), name
            parameter.grad = None


def test_after_a_step_of_the_learner_there_is_no_reference(tiny_model):
    backbone = whole(tiny_model)
    learner = Learner(
        [(backbone.role_parameters("policy"), 1e-3)], 1, TrainConfig(), ProcessGroup(0, 1)
    )
    backbone.hidden_states(None, torch.tensor([[1, 2]]))
    backbone.hidden_states("policy", torch.tensor([[1, 2]])).sum().backward()
    learner.step("step 1")
    with pytest.raises(BackboneError, match="no reference"):
        backbone.hidden_states(None, torch.tensor([[1, 2]]))
