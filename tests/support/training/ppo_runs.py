"""Shared helpers of the PPO tests: small settings, a reward, models over a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.critic import Critic
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.batching.encode import EncodedPrompt, encode_prompts
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.generation.engines import open_sampler
from rlaif.models.backbone import Backbone

ALONE = ProcessGroup(0, 1)


def small(**settings: Any) -> PPOConfig:
    base = {
        "dtype": "float32", "iterations": 2, "prompts_per_iteration": 4, "max_new_tokens": 8,
        "max_tokens": 60, "checkpoint_every": 1, "update_batch_size": 4, "engine": "transformers",
        "kv_cache_gib": 0.1,
    }  # fmt: skip
    return PPOConfig(**(base | settings))


def count_x(conversations: Any, responses: Sequence[str]) -> list[float | None]:
    return [float(sum(c in "xX" for c in r)) for r in responses]


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def models_over(model: str, config: PPOConfig) -> PPOModels:
    """Policy and, for gae, a value function that is not 0; scored by count_x."""
    backbone = Backbone.load(model, "float32", train_fully=config.lora is None)
    frozen = backbone if config.lora else backbone.frozen_copy()
    backbone.add_role("policy", config.lora, 0)
    critic = None
    if config.estimator.needs_value:
        assert config.lora is not None
        shared = config.value == "head"
        critic = Critic.on_policy(backbone) if shared else Critic.beside(frozen, config.lora, 1)
        critic.head.randomize(0)
    sampler = open_sampler("transformers", backbone, config.max_tokens, config.kv_cache_gib)
    return PPOModels(backbone, frozen, critic, count_x, sampler)


def forwards_of(backbone: Backbone, patch: Any) -> list[tuple[str | None, int]]:
    """(role, rows) of every forward that the backbone makes from now on. patch: a MonkeyPatch."""
    made: list[tuple[str | None, int]] = []
    plain = backbone._forward

    def forward(role: str | None, ids: Any, **how: Any) -> Any:
        made.append((role, len(ids)))
        return plain(role, ids, **how)

    patch.setattr(backbone, "_forward", forward)
    return made


def encoded(models: PPOModels, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
    return encode_prompts(models.policy.tokenizer, prompts, 52, "error")[0]
