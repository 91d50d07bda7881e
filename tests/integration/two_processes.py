"""Two steps of each trainer, their summed gradients written down. Run by test_distributed.py:
alone, and by `accelerate launch` in two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from constitution.schema import Message
from rlaif import dpo, ppo, reward_model
from rlaif.records import Prompt
from rlaif.training import Learner
from rlaif.workers import Workers
from tests.rlaif.pairs import preference

COMMON = {
    "dtype": "float32", "max_tokens": 120, "warmup": 0.0,
    "learning_rate": 1e-6,  # Adam's first step is ±rate however small g is: rounding would grow
    "max_grad_norm": 1e9,  # so that what is written down is not scaled
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
    pairs = {**COMMON, "epochs": 2, "batch_size": 7, "micro_batch_tokens": 300}
    if name == "reward":
        config = reward_model.RewardConfig(**pairs)
        reward_model.train(config, model, PAIRS, out, {"manners": 1.0})
    elif name == "dpo":
        dpo.train(dpo.DPOConfig(**pairs), model, PAIRS, out)
    elif name == "dpo-full":
        dpo.train(dpo.DPOConfig(**pairs, lora=None), model, PAIRS, out)
    else:
        config = ppo.PPOConfig(
            **COMMON, iterations=1, prompts_per_iteration=5, max_new_tokens=6, update_batch_size=3,
            micro_batch_tokens=150, engine="transformers", value_learning_rate=1e-6,
        )  # fmt: skip
        ppo.train(config, model, PROMPTS, length_score, out)


def length_score(_conversations: object, responses: list[str]) -> list[float]:
    return [len(response) / 10 for response in responses]


def main(model: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for name in ("reward", "dpo", "dpo-full", "ppo"):
        found: list[dict[str, torch.Tensor]] = []
        made = Learner.__init__

        def watched(self, *arguments, made=made, found=found):  # type: ignore[no-untyped-def]
            made(self, *arguments)
            self.optimiser.register_step_pre_hook(
                lambda *_: found.append({n: p.grad.clone() for n, p in self.parameters.items()})
            )

        Learner.__init__ = watched  # type: ignore[method-assign]
        trained(name, model, folder / name)
        Learner.__init__ = made  # type: ignore[method-assign]
        if Workers.here().main:
            torch.save(found, folder / f"{name}.gradients.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    Workers.here().leave()
