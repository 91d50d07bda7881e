"""A rollout worker with vLLM on a CPU, over a tiny model: its log-probs after every sync."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.opening import open_rollout_workers
from rlaif.generation.remote.protocol import Transport
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from tests.support.training.perturb import shaken
from tests.support.training.tiny_model import save_tiny_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
TOLERANCE = 1e-4  # nats per token; measured: 1e-6
PROMPTS = [[1, 5, 6, 7, 8], [1], [4, 3], [1, 5, 6, 7, 8], [9, 9, 9]]


def wide_model(folder: Path) -> str:
    """The tiny model with heads as wide as vLLM's attention needs them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = save_tiny_model(folder)
    config = LlamaConfig.from_pretrained(model)
    config.hidden_size, config.head_dim = 128, 64
    config.num_attention_heads = config.num_key_value_heads = 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(model)
    return model


@pytest.mark.parametrize("transport", ["files", "adapter"])
def test_the_logprobs_are_the_trainers_after_every_sync_and_old_weights_are_found(
    transport: Transport, tmp_path: Path
) -> None:
    backbone = Backbone.load(wide_model(tmp_path / "model"), "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    opened = open_rollout_workers(
        "vllm", backbone, (64, 0.05), LoraConfig(), workers=1, transport=transport,
        folder=tmp_path / "rollouts",
    )  # fmt: skip
    with closing(opened) as sampler:
        assert not sampler.exact
        for seed in range(3):  # prefixes that were cached before must not be used
            shaken(backbone, "policy", seed, std=0.05)
            sampler.sync()
            drawn = sampler.generate(PROMPTS, 8, 1.0, range(5))
            assert {g.version for g in drawn} == {seed + 1}
            assert 0 < sampler.largest_gap < TOLERANCE
        before = tmp_path / "before"
        shutil.copy(tmp_path / "rollouts" / "weights-000003.safetensors", before)
        shaken(backbone, "policy", 9, std=0.05)
        sampler.sync()
        shutil.copy(before, tmp_path / "rollouts" / "weights-000004.safetensors")
        with pytest.raises(SamplingError, match="draws from another policy than the trainer's"):
            sampler.generate(PROMPTS, 8, 1.0, range(5))
