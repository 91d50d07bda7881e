"""Records two steps of each trainer named: the summed gradients, and the bytes that each process
holds of weights, gradients and moments. Run by test_distributed.py: alone, and by
`accelerate launch` in two processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from constitution.schema import Message
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.rest import train as rest
from rlaif.algorithms.reward import train as reward_model
from rlaif.algorithms.sft import train as sft
from rlaif.data.records import Prompt
from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.models.reward_model import RewardFunction, RewardModel
from rlaif.training.learner import Learner
from tests.support.training.pairs import preference

COMMON = {
    "dtype": "float32", "max_tokens": 120, "warmup": 0.0,
    "learning_rate": 1e-6,  # Adam's first step is ±rate however small g is: rounding would grow
    "max_grad_norm": 1e9,  # so that the recorded gradients are not scaled
}  # fmt: skip
# seven pairs in one step: shares of four and three, of different lengths
PAIRS = [
    preference(i, f"Yes, {i} please." + "?" * i, "No!" * (1 + i % 3), traits={"manners": 0.9})
    for i in range(7)
]
PROMPTS = [
    Prompt(id=f"q{i}", messages=(Message(role="user", content="Say " + "x" * i),)) for i in range(5)
]


def trained(name: str, model: str, out: Path) -> None:
    # sharded: each row a pass, so that one process has four and the other three
    budget = 1 if ProcessGroup.current().sharded else 300
    pairs: dict[str, Any] = {**COMMON, "epochs": 2, "batch_size": 7, "micro_batch_tokens": budget}
    trainer, *how = name.split("-")
    lora = pairs["lora"] = None if "full" in how else LoraConfig()
    pairs["gradient_checkpointing"] = "recomputing" in how
    if "untied" in how:
        model += "-untied"
    if trainer == "sft":
        sources = [sft.SFTSource("pairs", PAIRS)]
        sft.train(sft.SFTConfig(**pairs), model, sources, out, PAIRS[:3])
    elif trainer == "reward":
        config = reward_model.RewardConfig(**pairs)
        reward_model.train(config, model, PAIRS, out, {"manners": 1.0}, PAIRS[:3])
    elif trainer == "dpo":
        dpo.train(dpo.DPOConfig(**pairs), model, PAIRS, out, PAIRS[:3])
    elif trainer == "rest":
        made = rest.ReSTConfig(
            **COMMON, lora=lora, samples_per_prompt=3, quantiles=(0.3, 0.6), start="base",
            prompts_per_chunk=16 if "lazy" in how else 1, batch_size=15, max_new_tokens=6,
            engine="transformers", micro_batch_tokens=budget,
        )  # fmt: skip
        rest.train(made, model, PROMPTS, reward(model, how), out)
    else:
        steps: dict[str, Any] = {"iterations": 1, "update_batch_size": 3}
        judge, prompts, asked = None, PROMPTS, 5
        if "few" in how:  # a quarter of two responses is one: the second process has none
            steps, asked = {"iterations": 1}, 2
        if "guarded" in how:
            # twice a rollout's second pass is stopped, its gradient dropped; then back to the best
            steps = {
                "iterations": 2, "epochs": 2, "update_batch_size": 5, "kl_ceiling": 1e-9,
                "eval_every": 1, "eval_prompts": 11,
            }  # fmt: skip
            scores = iter((0.9, 0.5))
            judge = lambda asked, _responses: [next(scores)] * len(asked)  # noqa: E731
            prompts = [
                Prompt(id=f"q{i}", messages=(Message(role="user", content="Say " + "x" * i),))
                for i in range(16)
            ]  # with 11 of them, a fall can be detected in two evaluations
        if "grouped" in how:  # micro-batches of both kinds: responses that share a prompt, and not
            steps |= {"advantages": "rloo", "group_size": 3, "update_batch_size": 8}
            budget = 300
        else:
            value = "adapter" if "adapter" in how else "head"
            steps |= {"value": value, "value_learning_rate": 1e-6}
        config = ppo.PPOConfig(
            **COMMON, **steps, lora=lora, prompts_per_iteration=asked, max_new_tokens=6,
            micro_batch_tokens=budget, engine="transformers",
            gradient_checkpointing="recomputing" in how,
        )  # fmt: skip
        ppo.train(config, model, prompts, reward(model, how), out, judge)


def reward(model: str, how: list[str]) -> Path | RewardFunction:
    """scored: by a reward model, whose folder lies beside the model's; own: by a function that has
    loaded it; lazy: by one that loads it when it is first called."""
    folder = Path(f"{model}-reward")
    if "own" in how:
        return RewardModel.load(model, folder).overall_scores
    if "lazy" in how:
        opened = cache(lambda: RewardModel.load(model, folder))
        return lambda prompts, responses: opened().overall_scores(prompts, responses)
    return Path(f"{model}-reward") if "scored" in how else OwnModel(model)


class OwnModel:
    """A reward function that reads a model of its own, in each process."""

    def __init__(self, model: str) -> None:
        read = AutoModelForCausalLM.from_pretrained(model)
        self.values = read.get_input_embeddings().weight.sum(1).tolist()

    def __call__(self, _conversations: object, responses: Sequence[str]) -> list[float]:
        return [
            sum(self.values[ord(c) % len(self.values)] for c in response) for response in responses
        ]


def size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class StepWatch:
    """Records one trainer's run, by hooks into its learner and backbone."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.held = 0  # bytes here of the weights that train, their gradients and moments
        self.base: list[tuple[int, int]] = []  # bytes of the base: all, and here

    def learner(self, learner: Learner) -> None:
        """After its optimizer is made: look before each of its steps."""

        def before_step(*_: object) -> None:
            moments = [m for of in learner.optimizer.state.values() for m in of.values() if m.ndim]
            pieces = learner.pieces.values()
            self.held = size([*pieces, *(p.grad for p in pieces if p.grad is not None), *moments])
            self.gradients.append(
                {n: fsdp.full_tensor(p.grad).clone() for n, p in learner.parameters.items()}
            )

        learner.optimizer.register_step_pre_hook(before_step)

    def backbone(self, backbone: Backbone) -> None:
        """After it was sharded, or not."""
        base = [p for name, p in backbone.model.named_parameters() if "lora_" not in name]
        self.base = [(size(base), size(map(fsdp.local, base)))]


def called_after(method: Callable[..., None], look: Callable[[Any], None]) -> Callable[..., None]:
    def both(self: Any, *arguments: Any) -> None:
        method(self, *arguments)
        look(self)

    return both


def main(model: str, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    made, sharded = Learner.__init__, Backbone.shard
    for name in names:
        watch = StepWatch()
        Learner.__init__ = called_after(made, watch.learner)  # type: ignore[method-assign]
        Backbone.shard = called_after(sharded, watch.backbone)  # type: ignore[method-assign]
        trained(name, model, folder / name)
        workers = ProcessGroup.current()
        held, base = workers.gather([watch.held]), workers.gather(watch.base)
        if workers.is_main:
            record = {"gradients": watch.gradients, "held": held, "base": base}
            torch.save(record, folder / f"{name}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    ProcessGroup.current().leave()
