"""The processes of one `accelerate launch`, and the few things they tell each other.

Data parallel without a wrapper around the model. Every process knows the whole batch of a step
(a function of the step and the seed), computes its share of it, and divides its loss by the count
of the whole batch. The gradient of the batch is then the sum over processes:

    g = Σ_r g_r,    g_r = ∇ (1/N) Σ_{i in share r} loss_i        N known to all

so n processes make the step that one makes, to rounding, whatever the shares' sizes.

    workers = ProcessGroup.here()          alone: rank 0 of 1, and everything below is the identity
    mine = workers.shard(batch)
    workers.add_gradients(parameters)             (Learner.step does)
    metrics = workers.sum({"loss": loss})

Accelerate brings up the processes and moves the tensors. Left out: overlap of the sum with the
backward pass (an adapter's gradient is small; DDP's hooks would need the model wrapped). Under
FSDP2 the base is cut over the processes (sharding.py) and its gradients are summed there.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from constitution.errors import UserError
from rlaif.distributed import fsdp as sharding

PATIENCE = timedelta(hours=2)  # for the slowest of them: a judge that scores, a disk that saves
BUCKET = 2**24  # numbers sent at once: 64 MB in float32 beside the gradients

Item = TypeVar("Item")

# what `accelerate launch` can be told that training would pass over: variable → (harmless, remedy)
_NOT_READ = {
    "ACCELERATE_USE_DEEPSPEED": (("false",), "launch with --multi_gpu in place of DeepSpeed"),
    "ACCELERATE_MIXED_PRECISION": (
        ("no",),
        "launch with --mixed_precision no and give the trainer dtype=bfloat16",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "launch with --dynamo_backend no"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        ("1",),
        "leave it away: micro_batch_tokens divides a step's batch to fit the memory",
    ),
}

# what torchrun and the MPIs say to each process of several
_SEVERAL = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}


class ProcessGroupError(UserError):
    """A launch that cannot work as it was asked for: what, and the remedy."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes that train together. Every method but `share` and `main` is collective: each
    process must call it, in the same order."""

    rank: int  # of this one, from 0
    count: int
    sharded: bool = False  # FSDP2: forward and backward passes over the base are collective too

    @classmethod
    def current(cls) -> ProcessGroup:
        """As `accelerate launch` started this process; alone without it. Call it before loading a
        model: it chooses the process's GPU.

        Raises ProcessGroupError, or ShardingError, for launch settings that would do nothing.
        """
        _refuse_what_does_nothing()
        sharded = sharding.asked()
        sharding.set_reading_aside()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        if state.backend == "gloo":
            atexit.unregister(_let_gloo_end)
            atexit.register(_let_gloo_end)
        return cls(state.process_index, state.num_processes, sharded)

    @property
    def is_main(self) -> bool:
        """The one that writes files and speaks."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """This process's items: every count-th. May be empty."""
        return list(items[self.rank :: self.count])

    def pad_batches(self, groups: list[list[Item]]) -> list[list[Item]]:
        """This process's micro-batches, for as many passes as the others make: where the model is
        sharded, one that has fewer gets empty ones at the end."""
        most = round(self.max(len(groups))) if self.sharded else len(groups)
        return groups + [[] for _ in range(most - len(groups))]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values of all processes added up by name, in float64. All give the same names."""
        if self.count == 1 or not values:
            return dict(values)
        names = sorted(values)
        mine = torch.tensor([values[name] for name in names], dtype=torch.float64)
        found = dict(zip(names, _added(mine.to(_device())).tolist(), strict=True))
        return {name: found[name] for name in values}

    def max(self, value: float) -> float:
        return max(self.gather([value]))

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The inverse of `share`: what each process made of its share, in the whole's order.

        Items are pickled; hand over tensors on the CPU.
        """
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        parts: list[list[Item]] = gather_object([list(items)])
        total = sum(map(len, parts))
        return [parts[i % self.count][i // self.count] for i in range(total)]

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every .grad becomes the sum over processes; None counts as 0. Those of sharded
        parameters are it already.

        Where all have None it stays None, so that the optimizer leaves the parameter alone, as it
        does in one process.
        """
        if self.count == 1:
            return
        every = [p for p in parameters if not sharding.is_sharded(p)]
        used = torch.tensor([p.grad is not None for p in every], dtype=torch.int32)
        told = _added(used.to(_device())).tolist()
        for bucket in _buckets([p for p, users in zip(every, told, strict=True) if users]):
            flat = torch.cat([_gradient(p).flatten() for p in bucket])
            parts = torch.split(_added(flat), [p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()

    def leave(self) -> None:
        """At the end of the program: nothing more will be said."""
        if self.count > 1:
            torch.distributed.destroy_process_group()


def _refuse_what_does_nothing() -> None:
    for name, (harmless, remedy) in _NOT_READ.items():
        value = os.environ.get(name, harmless[0]).lower()
        if value not in harmless:
            raise ProcessGroupError(
                f"{name}={value} (set by accelerate) has no effect here: {remedy}"
            )
    told = os.environ.keys()
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= told and not _SEVERAL & told:
        raise ProcessGroupError(
            "accelerate was asked for several processes and started one (with --cpu it needs "
            "mpirun); write --multi_gpu in place of --cpu: without a GPU they meet over gloo"
        )


def _let_gloo_end() -> None:
    """At the interpreter's end: leave the GIL to gloo's threads, so that none asks for it later.

    They report a collective as done before they take the GIL to drop its tensors; one that asks
    once the interpreter is ending aborts the process (pytorch/pytorch#190489). Ending the group
    joins them only when nothing else holds it, and FSDP2's caches do.
    """
    time.sleep(0.5)


def _device() -> torch.device:
    from accelerate import PartialState

    device: torch.device = PartialState().device
    return device


def _added(tensor: Tensor) -> Tensor:
    from accelerate.utils import reduce

    found: Tensor = reduce(tensor, reduction="sum")
    return found


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive parameters of one dtype and device, about BUCKET numbers each."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (
            parameter.dtype,
            parameter.device,
        )
        if bucket and (not alike or sum(p.numel() for p in bucket) + parameter.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
