"""The processes of one `accelerate launch`, and the collectives that training needs.

Data parallelism without a wrapper around the model. Every process knows the whole batch of a step
(it is a function of the step and the seed), computes its shard, and divides its loss by the size
of the whole batch. The gradient of the batch is then the sum over processes:

    g = Σ_r g_r,    g_r = ∇ (1/N) Σ_{i in shard r} loss_i        N known to all

so n processes make the same step as one, up to rounding, whatever the sizes of their shards.

    group = ProcessGroup.current()         alone: rank 0 of 1, and every method is the identity
    shard = group.shard(batch)
    group.all_reduce_gradients(parameters)         (Learner.step does this)
    metrics = group.all_reduce({"loss": loss})
    with group.raise_together():                   what one process may raise alone
        scores = score(shard)

Accelerate starts the processes and moves the tensors. Left out: overlapping the all-reduce with
the backward pass (an adapter's gradient is small; DDP's hooks would need the model wrapped). Under
FSDP2 the base model is sharded over the processes (fsdp.py) and its gradients are summed there.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from constitution.errors import UserError
from rlaif.distributed import fsdp

TIMEOUT = timedelta(hours=2)  # of one collective: the slowest process may query a judge or save
BUCKET_NUMEL = 2**24  # elements per all-reduce: 64 MB in float32 beside the gradients

Item = TypeVar("Item")

# settings of `accelerate launch` that training ignores: variable → (accepted values, remedy)
_IGNORED_SETTINGS = {
    "ACCELERATE_USE_DEEPSPEED": (("false",), "launch with --multi_gpu in place of DeepSpeed"),
    "ACCELERATE_MIXED_PRECISION": (
        ("no",),
        "launch with --mixed_precision no and give the trainer dtype=bfloat16",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "launch with --dynamo_backend no"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        ("1",),
        "remove it: micro_batch_tokens already splits each step to fit in memory",
    ),
}

# set by torchrun and by the MPI launchers in each process of several
_WORLD_SIZE_VARIABLES = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}


class ProcessGroupError(UserError):
    """Launch settings that cannot work; the message names them and the remedy."""


class PeerError(UserError):
    """An error of another process, with its message: this one stops, too."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes that train together, seen from one of them.

    All methods except `shard` and `is_main` are collective: every process must call them, in the
    same order.
    """

    rank: int  # of this process, from 0
    count: int  # of processes
    sharded: bool = False  # FSDP2: forward and backward passes over the base are collective too

    @classmethod
    def current(cls) -> ProcessGroup:
        """The group that `accelerate launch` started this process in, or a group of one.

        Must be called before loading a model, since it selects the process's GPU. Raises
        ProcessGroupError or ShardingError for launch settings that would have no effect.
        """
        _refuse_ignored_settings()
        sharded = fsdp.is_requested()
        fsdp.defer_ram_efficient_loading()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        if state.backend == "gloo":
            atexit.unregister(_let_gloo_finish)
            atexit.register(_let_gloo_finish)
        return cls(state.process_index, state.num_processes, sharded)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """This process's share of items: every count-th from its rank on; may be empty."""
        return list(items[self.rank :: self.count])

    def pad_batches(self, groups: list[list[Item]]) -> list[list[Item]]:
        """Append empty micro-batches until every process has the same number of them.

        Needed by a sharded model, whose forward passes are collective; otherwise `groups` is
        returned unchanged.
        """
        most = round(self.max(len(groups))) if self.sharded else len(groups)
        return groups + [[] for _ in range(most - len(groups))]

    def all_reduce(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each named value over all processes, in float64; all must pass the same names."""
        if self.count == 1 or not values:
            return dict(values)
        names = sorted(values)  # one order in every process
        local = torch.tensor([values[name] for name in names], dtype=torch.float64)
        totals = dict(zip(names, _all_reduce(local.to(_device())).tolist(), strict=True))
        return {name: totals[name] for name in values}

    def max(self, value: float) -> float:
        """The largest of all processes' values."""
        return max(self.gather([value]))

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """All processes' items, in the order before `shard`, whose inverse this is.

        Items are pickled: pass tensors on the CPU.
        """
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        shards: list[list[Item]] = gather_object([list(items)])
        total = sum(map(len, shards))
        return [shards[i % self.count][i // self.count] for i in range(total)]

    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum every .grad over the processes, in place; None counts as 0.

        Gradients of FSDP2-sharded parameters are summed already and are left alone. A gradient
        that is None in every process stays None, so that the optimizer skips the parameter, as it
        does in one process.
        """
        if self.count == 1:
            return
        replicated = [p for p in parameters if not fsdp.is_sharded(p)]
        has_grad = torch.tensor([p.grad is not None for p in replicated], dtype=torch.int32)
        counts = _all_reduce(has_grad.to(_device())).tolist()
        used = [p for p, count in zip(replicated, counts, strict=True) if count]
        for bucket in _buckets(used):
            flat = torch.cat([_gradient(p).flatten() for p in bucket])
            sums = torch.split(_all_reduce(flat), [p.numel() for p in bucket])
            for parameter, total in zip(bucket, sums, strict=True):
                parameter.grad = total.view_as(parameter)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """For a block without collectives: where one process raises, all do at the block's end.

        A process that raised alone would leave the others waiting in their next collective. The
        error is raised as it is where it happened, and as a PeerError elsewhere. Every process
        waits here for the slowest.
        """
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        if not self.all_reduce({"raised": float(problem is not None)})["raised"]:
            return
        texts = self.gather([None if problem is None else _in_words(problem)])
        if problem is not None:
            raise problem
        rank, text = next((rank, text) for rank, text in enumerate(texts) if text is not None)
        raise PeerError(f"process {rank} of {self.count} stopped, and so do the others: {text}")

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()

    def leave(self) -> None:
        """Shut the process group down; the program's last collective."""
        if self.count > 1:
            torch.distributed.destroy_process_group()


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _refuse_ignored_settings() -> None:
    for name, (accepted, remedy) in _IGNORED_SETTINGS.items():
        value = os.environ.get(name, accepted[0]).lower()
        if value not in accepted:
            raise ProcessGroupError(
                f"{name}={value} (set by accelerate) has no effect here; {remedy}"
            )
    # `accelerate launch --cpu --num_processes 2` without mpirun sets an address and starts one
    variables = os.environ.keys()
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= variables and not _WORLD_SIZE_VARIABLES & variables:
        raise ProcessGroupError(
            "accelerate was asked for several processes and started one (with --cpu it needs "
            "mpirun); replace --cpu with --multi_gpu: without a GPU the processes use gloo"
        )


def _let_gloo_finish() -> None:
    """At interpreter exit: release the GIL to gloo's threads, so that none requests it later.

    They report a collective as done before they take the GIL to drop its tensors; a thread that
    requests it once the interpreter is shutting down aborts the process (pytorch/pytorch#190489).
    Destroying the group joins those threads only when nothing else holds it, and FSDP2's caches do.
    """
    time.sleep(0.5)


def _device() -> torch.device:
    from accelerate import PartialState

    device: torch.device = PartialState().device
    return device


def _all_reduce(tensor: Tensor) -> Tensor:
    from accelerate.utils import reduce

    total: Tensor = reduce(tensor, reduction="sum")
    return total


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive parameters of one dtype and device, about BUCKET_NUMEL elements each."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (
            parameter.dtype,
            parameter.device,
        )
        size = sum(p.numel() for p in bucket) + parameter.numel()
        if bucket and (not alike or size > BUCKET_NUMEL):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
