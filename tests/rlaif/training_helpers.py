"""What the trainers' tests share beside their fixtures."""

from __future__ import annotations

import torch

from constitution.schema import Message
from rlaif.records import Preference
from rlaif.training import Learner


def preference(
    number: int,
    chosen: str,
    rejected: str,
    prob_chosen: float = 0.9,
    traits: dict[str, float | None] | None = None,
) -> Preference:
    return Preference(
        id=f"pair-{number}",
        prompt=(Message(role="user", content=f"Question {number}?"),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=prob_chosen,
        traits=traits or {},
    )


class GradientKeeper(Learner):
    """Keeps the gradients instead of applying them."""

    gradients: dict[str, torch.Tensor]

    def step(self, where: str) -> float:
        self.gradients = {n: p.grad.clone() for n, p in self.parameters.items()}
        self.optimiser.zero_grad()
        return 0.0
