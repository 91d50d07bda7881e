"""The trainer's weights by vLLM's own transfer over NCCL, from GPU to GPU (vLLM 0.32).

    the group     trainer 0, worker w: rank 1 + w          one GPU for each worker
    once          init_weight_transfer_engine              beside the trainer's own endpoint
    each sync     start_weight_update
                  update_weights                           beside the trainer's broadcast
                  finish_weight_update                     and the prefix cache is emptied

vLLM's trainer engine drives these calls through a client of four methods; ours asks every worker at
the same time. A group that has lost a member is left for good: the workers that died are started
again at the next sync, and all join a new one.

NOT RUN YET: there was no GPU to run it on. Tests check the order of the calls against a fake engine
and fake workers, and vLLM's own trainer engine with its broadcast replaced.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlaif.generation.base import SamplingError
from rlaif.generation.remote.pool import WorkerPool
from rlaif.generation.remote.protocol import WorkerSpec
from rlaif.generation.remote.weights import whole_weights
from rlaif.models.backbone import Backbone

HERE = "127.0.0.1"  # where the group meets, for workers of this machine
_METHODS = (
    "init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update",
    "shutdown_weight_transfer_engine",
)  # fmt: skip


def require_nccl(engine: str) -> None:
    """Raises SamplingError where weights cannot be sent over NCCL."""
    if engine != "vllm":
        raise SamplingError(
            f"rollout_weights=nccl is vLLM's own transfer, and engine={engine} has none; choose "
            "engine=vllm, or rollout_weights=adapter"
        )
    if not torch.cuda.is_available():
        raise SamplingError(
            "rollout_weights=nccl sends weights from GPU to GPU, and this machine has none; choose "
            "rollout_weights=adapter or files"
        )


class TrainerEngine(Protocol):
    """What is used of vLLM's TrainerWeightTransferEngine."""

    def send_weights(self) -> None:
        """Drive one update: start, update beside the broadcast, finish."""

    def shutdown(self) -> None:
        """Leave the group."""


Join = Callable[["WorkersClient", "PolicySource", int], TrainerEngine]
"""(client, source, size of the group) → the trainer's engine, once all have joined."""


class WorkersClient:
    """vLLM's VLLMWeightSyncClient over all workers of a pool."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self.version = 0  # of the weights that are sent

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let worker w join the group with rank 1 + w."""
        offset = int(init_info["rank_offset"])
        self._pool.tell(
            [
                {"do": "init_weight_transfer_engine", "info": {**init_info, "rank_offset": rank}}
                for rank in range(offset, offset + len(self._pool.workers))
            ]
        )

    def start_weight_update(self) -> None:
        """Let the workers expect weights."""
        self._tell({"do": "start_weight_update"})

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Let the workers receive what the trainer broadcasts meanwhile; blocks."""
        self._tell({"do": "update_weights", "info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights into use, as `version`."""
        self._tell({"do": "finish_weight_update", "version": self.version})

    def shutdown_weight_transfer_engine(self) -> None:
        """Let the workers leave the group."""
        self._tell({"do": "shutdown_weight_transfer_engine"})

    def _tell(self, request: dict[str, Any]) -> None:
        self._pool.tell([request] * len(self._pool.workers))


class PolicySource:
    """vLLM's WeightSource over the policy's weights, with its adapter folded in."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._metadata: list[Any] = []

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of what iteration yields, in its order; computed once."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        if not self._metadata:
            self._metadata = [ParamMeta(n, t.dtype, tuple(t.shape)) for n, t in self]
        return self._metadata

    def held_names(self) -> None:
        """All of them are here."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return whole_weights(self._backbone)


class NcclSender:
    """A `Sender` over NCCL. join: opens vLLM's engine for the trainer. host: of this process, as
    the workers reach it."""

    def __init__(
        self, backbone: Backbone, pool: WorkerPool, join: Join | None = None, host: str = HERE
    ) -> None:
        pool.heals = False  # a worker that is started again has no weights before the next sync
        self._pool, self._client = pool, WorkersClient(pool)
        self._source, self._join = PolicySource(backbone), join or partial(_join_vllm, host)
        self._engine: TrainerEngine | None = None

    def send(self, version: int) -> None:
        """Send the present weights to all workers, in a new group if one died."""
        died = self._pool.revive()
        if died and self._engine is not None:
            self._engine.shutdown()
            self._engine = None
            members = [place for place in range(len(self._pool.workers)) if place not in died]
            self._pool.tell_some(members, {"do": "shutdown_weight_transfer_engine"})
        if self._engine is None:
            self._engine = self._join(self._client, self._source, 1 + len(self._pool.workers))
        self._client.version = version
        self._engine.send_weights()

    def close(self) -> None:
        """Leave the group; the workers end by themselves."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()


class Receiver:
    """A worker's vLLM engine that receives weights over NCCL."""

    def __init__(self, spec: WorkerSpec) -> None:
        from rlaif.generation.vllm import VLLMWorkerSampler

        self.sampler: VLLMWorkerSampler = VLLMWorkerSampler(
            spec.model, spec.dtype, spec.max_tokens, spec.kv_cache_gib, frozenset(spec.ends), "nccl"
        )

    def load(self, path: Path) -> None:
        """Refuse: weights come over NCCL."""
        raise SamplingError(f"{path}: this worker's weights come over NCCL, not from a file")

    def take(self, request: dict[str, Any]) -> None:
        """One of vLLM's calls, by its name. Raises SamplingError for another name."""
        do, llm = request["do"], self.sampler.llm
        if do not in _METHODS:
            raise SamplingError(f"unknown request to a rollout worker: {do!r}")
        if do == "init_weight_transfer_engine":
            llm.init_weight_transfer_engine({"init_info": request["info"]})
        elif do == "update_weights":
            llm.update_weights({"update_info": request["info"]})
        else:
            getattr(llm, do)()
        if do == "finish_weight_update" and not llm.reset_prefix_cache():
            raise SamplingError("vLLM kept its prefix cache, which belongs to the weights before")


def _join_vllm(host: str, client: WorkersClient, source: PolicySource, size: int) -> TrainerEngine:
    """vLLM's engine for the trainer, as rank 0 of a group that meets at this host."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    info = NCCLTrainerInitInfo(host, port, size, rank=0)
    made: TrainerEngine = WeightTransferTrainerFactory.trainer_init(
        info, client=client, source=source
    )
    return made
