"""FSDP2 in one process: launch settings, how models are loaded, and batches of zero rows.

With two real processes: tests/integration/rlaif/test_distributed.py.
"""

from __future__ import annotations

import os

import pytest
import torch

from rlaif.batching.encode import pad
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.distributed import fsdp
from rlaif.distributed.fsdp import ShardingError
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.training.config import TrainConfig
from rlaif.training.learner import Learner

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}


@pytest.fixture
def launched(monkeypatch):
    """launched(NAME=value) sets the variables that `accelerate launch` sets."""

    def set_variables(**changed: str) -> None:
        for name, value in (FSDP2 | changed).items():
            monkeypatch.setenv(name, value)

    return set_variables


def fully_trained(tiny_model: str) -> Backbone:
    backbone = Backbone.load(tiny_model, "float32", train_fully=True)
    backbone.add_role("policy", None, 0)
    return backbone


def test_only_the_launcher_requests_fsdp2(launched):
    assert not fsdp.is_requested()
    launched()
    assert fsdp.is_requested()
    launched(WORLD_SIZE="1")  # nothing to shard over
    assert not fsdp.is_requested()


def test_the_defaults_of_accelerates_launcher_and_config_are_accepted(launched):
    launched(
        FSDP_MIN_NUM_PARAMS="100000000", FSDP_SHARDING_STRATEGY="FULL_SHARD",
        FSDP_OFFLOAD_PARAMS="false", FSDP_RESHARD_AFTER_FORWARD="true",
        FSDP_FORWARD_PREFETCH="false", FSDP_USE_ORIG_PARAMS="true",
        FSDP_CPU_RAM_EFFICIENT_LOADING="true", FSDP_SYNC_MODULE_STATES="true",
        FSDP_ACTIVATION_CHECKPOINTING="false", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_STATE_DICT_TYPE="FULL_STATE_DICT",
    )  # fmt: skip
    assert fsdp.is_requested()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("FSDP_VERSION", "1", "--fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "more processes"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "gradient_checkpointing=true"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"),
        ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT", "FULL_STATE_DICT"),
        ("FSDP_RESHARD_AFTER_FORWARD", "SHARD_GRAD_OP", "true or false"),
    ],
)
def test_an_fsdp_setting_that_would_have_no_effect_is_refused(name, value, remedy, launched):
    launched(**{name: value})
    with pytest.raises(ShardingError, match=f"{name}={value} .*{remedy}"):
        ProcessGroup.current()


def test_a_missing_version_means_version_1_and_is_refused(launched, monkeypatch):
    launched()
    monkeypatch.delenv("FSDP_VERSION")
    with pytest.raises(ShardingError, match=r"FSDP_VERSION=1 .*--fsdp_version 2"):
        fsdp.is_requested()


def test_only_models_that_we_shard_are_read_once_per_host(launched, monkeypatch):
    """A model that a reward function loads would be zeros in the other processes."""
    launched(FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    monkeypatch.setenv("RLAIF_READ_ONCE", "")  # so that monkeypatch restores it after this test
    for _ in range(2):  # ProcessGroup.current() is called more than once
        fsdp.defer_ram_efficient_loading()
        assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
        with fsdp.ram_efficient_loading():
            assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
        assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ


def test_a_model_is_sharded_only_over_the_group_it_was_loaded_for(tiny_model, launched):
    launched()
    backbone = Backbone.load(tiny_model, "float32")  # loaded outside any group
    backbone.shard(ProcessGroup(0, 2, sharded=True))
    assert not any(map(fsdp.is_sharded, backbone.model.parameters()))


def test_a_sharded_process_makes_as_many_passes_as_the_busiest_one(monkeypatch):
    monkeypatch.setattr(ProcessGroup, "max", lambda self, value: 3.0)
    assert ProcessGroup(1, 2, sharded=True).pad_batches([[0, 2], [1]]) == [[0, 2], [1], []]
    assert ProcessGroup(1, 2).pad_batches([[0, 2], [1]]) == [[0, 2], [1]]


@pytest.mark.parametrize("lora", [None, LoraConfig()])
def test_a_batch_of_zero_rows_gives_every_weight_a_zero_gradient(lora, tiny_model):
    backbone = Backbone.load(tiny_model, "float32", train_fully=lora is None)
    backbone.add_role("policy", lora, 0)
    sums = backbone.response_sums("policy", pad_packs([]))
    assert sums.logprobs.shape == sums.tokens.shape == (0,)
    ends = backbone.ends("policy", pad_packs([]))
    assert ends.shape == (0, 32)
    values = backbone.logprobs("policy", pad([]))
    assert values.shape == (0, 1)
    for output in (sums.logprobs, ends, values):
        output.sum().backward()
        for name, parameter in backbone.role_parameters("policy").items():
            assert parameter.grad is not None, name  # else the other processes would wait for it
            assert not parameter.grad.any(), name
            parameter.grad = None


def test_full_finetuning_has_no_reference_after_a_step(tiny_model):
    backbone = fully_trained(tiny_model)
    learner = Learner(
        [(backbone.role_parameters("policy"), 1e-3)], 1, TrainConfig(), ProcessGroup(0, 1)
    )
    backbone.hidden_states(None, torch.tensor([[1, 2]]))
    backbone.hidden_states("policy", torch.tensor([[1, 2]])).sum().backward()
    learner.step("step 1")
    with pytest.raises(BackboneError, match="no reference"):
        backbone.hidden_states(None, torch.tensor([[1, 2]]))
