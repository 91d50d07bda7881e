"""Gradients looked at instead of applied."""

from __future__ import annotations

import torch

from rlaif.training import Learner


class GradientKeeper(Learner):
    """Keeps the gradients instead of applying them."""

    gradients: dict[str, torch.Tensor]

    def step(self, where: str) -> float:
        self.gradients = {n: p.grad.clone() for n, p in self.parameters.items()}
        self.optimiser.zero_grad()
        return 0.0
