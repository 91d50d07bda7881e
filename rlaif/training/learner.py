"""The optimizer: AdamW in one or several processes, with a state that resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from rlaif.distributed import fsdp
from rlaif.distributed.processes import ProcessGroup
from rlaif.training.checks import require_finite
from rlaif.training.config import TrainConfig
from rlaif.training.schedules import rate_factor

_MOMENTS = "optimiser"  # the key in checkpoints, spelled as the first ones have it


def decays(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices (also A and B of adapters, and heads), not to
    biases and norms, whose zero means nothing."""
    return parameter.ndim >= 2


class Learner:
    """AdamW over named float32 parameters, with gradient clipping.

    groups: (named parameters, peak learning rate) pairs; all follow one schedule (schedules.py).
    total_steps: of the run. Weight decay applies to matrices (`decays`). Of a sharded parameter
    each process updates its shard, and `state` has all of it (distributed/fsdp.py).
    """

    def __init__(
        self,
        groups: Sequence[tuple[Mapping[str, Tensor], float]],
        total_steps: int,
        config: TrainConfig,
        workers: ProcessGroup,
    ) -> None:
        # (parameters, peak rate, weight decay), in the order of the optimizer's state
        split = [
            ({name: p for name, p in named.items() if decays(p) is decayed}, rate, decay)
            for named, rate in groups
            for decayed, decay in ((True, config.weight_decay), (False, 0.0))
        ]
        split = [group for group in split if group[0]]
        self.parameters = {name: p for named, *_ in split for name, p in named.items()}
        self.pieces = {name: fsdp.local(p) for name, p in self.parameters.items()}
        self.total, self.config = total_steps, config
        self.max_grad_norm = config.max_grad_norm
        self.workers = workers
        self.peaks = [rate for _, rate, _ in split]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [self.pieces[n] for n in named], "lr": rate, "weight_decay": decay}
                for named, rate, decay in split
            ],
            fused=True,  # one pass over each weight instead of ten
        )

    def schedule(self, step: int) -> float:
        """Set the learning rates of a step, counted from 1; returns the first group's."""
        config = self.config
        factor = rate_factor(config.schedule, step, self.total, config.warmup, config.cooldown)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.peaks[0] * factor

    def step(self, where: str) -> float:
        """Sum the gradients over processes, clip, apply and clear them; returns the unclipped norm.

        Collective. Raises TrainingError, naming the step `where`, for a norm that is not finite.
        """
        parameters = self.parameters.values()
        self.workers.all_reduce_gradients(parameters)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.pieces[name].grad = fsdp.local(parameter.grad)
        norm = self._norm()
        torch.nn.utils.clip_grads_with_norm_(self.pieces.values(), self.max_grad_norm, norm)
        require_finite(norm, "gradient", where)
        self.optimizer.step()
        torch.autograd.graph.increment_version(parameters)  # AdamW's fused kernel does not
        self.clear()
        return float(norm)

    def clear(self) -> None:
        """Discard the accumulated gradients."""
        for tensor in (*self.parameters.values(), *self.pieces.values()):
            tensor.grad = None

    def _norm(self) -> Tensor:
        """Norm of the whole gradient, wherever its pieces are."""
        sharded = {name for name, p in self.parameters.items() if fsdp.is_sharded(p)}
        grads = {name: piece.grad for name, piece in self.pieces.items() if piece.grad is not None}
        norm = get_total_norm([grad for name, grad in grads.items() if name not in sharded])
        if not sharded:
            return norm
        own = float(get_total_norm([grad for name, grad in grads.items() if name in sharded]))
        of_pieces = self.workers.all_reduce({"square": own**2})["square"]
        return (norm.square() + of_pieces).sqrt()

    def state(self) -> dict[str, Any]:
        """Parameters and optimizer moments, unsharded, for a checkpoint.

        For a sharded model the call is collective, and only the main process gets the tensors, on
        the CPU: 12 bytes per trained weight.
        """
        optimizer, main = self.optimizer.state_dict(), self.workers.is_main
        if self.workers.sharded:
            return {
                "parameters": fsdp.full_state(self.parameters, main),
                _MOMENTS: fsdp.full_optimizer_state(optimizer, self.parameters.values(), main),
            }
        parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        return {"parameters": parameters, _MOMENTS: optimizer}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`, also one of a launch with another number of processes."""
        for name, parameter in self.parameters.items():
            fsdp.set_full(parameter, state["parameters"][name])
        moments = fsdp.local_optimizer_state(state[_MOMENTS], self.parameters.values())
        self.optimizer.load_state_dict(moments)
