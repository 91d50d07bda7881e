"""Trains with an error in the second of two processes alone, named by the first argument: both must
stop with it. Run by test_distributed.py, by `accelerate launch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from constitution.errors import UserError
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.data.records import Prompt
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from tests.support.training.two_processes import COMMON, PAIRS, PROMPTS, OwnModel

PAIR_SETTINGS: dict[str, Any] = {**COMMON, "epochs": 1, "batch_size": 7}
PPO_SETTINGS: dict[str, Any] = {
    **COMMON, "iterations": 1, "prompts_per_iteration": 4, "max_new_tokens": 6,
    "engine": "transformers", "update_batch_size": 4,  # both have a share of each step
}  # fmt: skip


def spoil(weights: Sequence[torch.Tensor]) -> None:
    """NaN in this process's copy of a weight, unless it is the main one."""
    if not ProcessGroup.current().is_main:
        with torch.no_grad():
            weights[0].fill_(torch.nan)


def spoil_after(method: str) -> None:
    """Spoil the policy, or the reward model, once the reference has been read."""
    whole = getattr(Backbone, method)

    def spoiled(self: Backbone, role: Any, *rest: Any) -> Any:
        if role is not None:
            spoil(list(self.role_parameters(role).values()))
        return whole(self, role, *rest)

    setattr(Backbone, method, spoiled)


def no_memory(_conversations: object, _responses: Sequence[str]) -> list[float]:
    if ProcessGroup.current().is_main:
        return [1.0 for _ in _responses]
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_judge(_prompts: Sequence[Prompt], _responses: Sequence[str]) -> list[float]:
    raise ValueError("the judge is away")


def train(what: str, model: str, out: Path) -> None:
    if what == "sft":
        spoil_after("logprobs")
        sft.train(sft.SFTConfig(**PAIR_SETTINGS), model, [SFTSource("pairs", PAIRS)], out)
    elif what == "dpo":
        spoil_after("response_sums")
        dpo.train(dpo.DPOConfig(**PAIR_SETTINGS), model, PAIRS, out)
    elif what == "dpo-reference":
        shard = Backbone.shard

        def spoiled(self: Backbone, workers: ProcessGroup) -> None:
            shard(self, workers)
            spoil(list(self.model.parameters()))

        Backbone.shard = spoiled  # type: ignore[method-assign]
        dpo.train(dpo.DPOConfig(**PAIR_SETTINGS), model, PAIRS, out)
    elif what == "reward":
        spoil_after("ends")
        config = reward_model.RewardConfig(**PAIR_SETTINGS)
        reward_model.train(config, model, PAIRS, out, {"manners": 1.0})
    elif what == "ppo":
        config = ppo.PPOConfig(**PPO_SETTINGS)
        whole = ppo.update

        def update(models: Any, *rest: Any) -> Any:
            spoil(list(models.policy.role_parameters("policy").values()))
            return whole(models, *rest)

        ppo.update = update  # type: ignore[assignment]
        ppo.train(config, model, PROMPTS, OwnModel(model), out)
    elif what == "ppo-reward":
        ppo.train(ppo.PPOConfig(**PPO_SETTINGS), model, PROMPTS, no_memory, out)
    elif what == "ppo-judge":
        config = ppo.PPOConfig(**PPO_SETTINGS, eval_prompts=1)
        ppo.train(config, model, PROMPTS, OwnModel(model), out, no_judge)
    elif what == "disk":
        (out / "metrics.jsonl").mkdir(parents=True, exist_ok=True)
        sft.train(sft.SFTConfig(**PAIR_SETTINGS), model, [SFTSource("pairs", PAIRS)], out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, tiny, folder = sys.argv[1:]
    try:
        train(name, tiny, Path(folder))
        said = "trained"
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        said = f"{kind}{error}"
    # One write for the whole line: the other process writes to the same pipe.
    print(f"[{ProcessGroup.current().rank}] {said}\n", end="", flush=True)
    ProcessGroup.current().barrier()  # both are here, and none waits elsewhere
    ProcessGroup.current().leave()
