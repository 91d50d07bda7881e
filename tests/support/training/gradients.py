"""Gradients recorded instead of applied, in one process or in one of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch

from rlaif.distributed.processes import ProcessGroup
from rlaif.training.learner import Learner

Item = TypeVar("Item")
ALONE = ProcessGroup(0, 1)


class GradientKeeper(Learner):
    """Keeps the gradients instead of applying them."""

    gradients: dict[str, torch.Tensor]

    def step(self, where: str) -> float:
        self.gradients = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for n, p in self.parameters.items()
        }
        self.optimizer.zero_grad()
        return 0.0


class OneOfSeveral(ProcessGroup):
    """One process's share of the work, without the others: sums are its own part of them."""

    def all_reduce(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def max(self, value: float) -> float:
        return value

    def gather(self, items: Sequence[Item]) -> list[Item]:
        return list(items)

    def all_reduce_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        pass

    def barrier(self) -> None:
        pass


def summed_over_processes(
    gradients: Callable[[ProcessGroup], dict[str, torch.Tensor]], count: int
) -> dict[str, torch.Tensor]:
    """What Learner.step would add up: the gradients of `count` processes."""
    parts = [gradients(OneOfSeveral(rank, count)) for rank in range(count)]
    return {name: sum(part[name] for part in parts) for name in parts[0]}
