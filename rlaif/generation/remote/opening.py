"""Opening the rollout workers of one of the trainer's processes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from rlaif.batching.chat import template_kwargs_of
from rlaif.distributed.actors import RayActors
from rlaif.distributed.fleet import FleetError
from rlaif.generation.base import SamplingError
from rlaif.generation.engines import choose_engine
from rlaif.generation.remote.pool import WorkerPool
from rlaif.generation.remote.process import WorkerProcess, device_of, worker_environment
from rlaif.generation.remote.protocol import Launcher, Transport, Worker, WorkerSpec
from rlaif.generation.remote.sampler import RemoteSampler
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig


def open_rollout_workers(
    engine: str,
    backbone: Backbone,
    room: tuple[int, float],
    lora: LoraConfig | None,
    *,
    workers: int,
    transport: Transport,
    folder: Path,
    ray: RayActors | None = None,
    launch: Launcher | None = None,
) -> RemoteSampler:
    """Start `workers` workers that sample the backbone's role "policy".

    room: tokens of prompt and response, and GiB of keys and values, of each worker. lora: shape of
    the policy's adapter. folder: for this process's weights and logs; an earlier run's are deleted.
    ray: the cluster they run on; None: processes of this machine. launch: makes a worker, in place
    of both. Raises SamplingError when a worker cannot start, or nccl is asked for where it cannot
    be.
    """
    name = choose_engine(engine)
    if transport == "nccl":
        from rlaif.generation.remote.nccl import require_nccl

        require_nccl(name)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SamplingError(
            f"{folder}: cannot be created ({error.strerror}); choose another output folder"
        ) from error
    spec = spec_of(name, backbone, room, lora, transport)
    launched = launch or (_actors(workers, ray) if ray else _processes(workers, folder))
    pool = WorkerPool([launched(place, spec) for place in range(workers)])
    if ray:
        pool.after = ray.disconnect
    pool.open()
    if transport == "nccl":
        from rlaif.generation.remote.nccl import HERE, NcclSender

        sender = NcclSender(backbone, pool, host=ray.host if ray else HERE)
        return RemoteSampler(backbone, pool, transport, folder, sender)
    return RemoteSampler(backbone, pool, transport, folder)


def spec_of(
    engine: str,
    backbone: Backbone,
    room: tuple[int, float],
    lora: LoraConfig | None,
    transport: Transport,
) -> WorkerSpec:
    """What a worker is to hold, so that its forward is the trainer's."""
    return WorkerSpec(
        model=backbone.name,
        engine=engine,
        dtype="bfloat16" if backbone.dtype is torch.bfloat16 else "float32",
        lora=None if lora is None else lora.model_dump(mode="json"),
        max_tokens=room[0],
        kv_cache_gib=room[1],
        transport=transport,
        ends=sorted(backbone.eos_ids),
        chat_template_kwargs=dict(template_kwargs_of(backbone.tokenizer)),
    )


def _actors(workers: int, ray: RayActors) -> Launcher:
    """Workers as actors, on the GPUs that Ray gives them."""
    from rlaif.generation.remote.ray_worker import RayWorker

    try:
        ray.connect(workers)
    except FleetError as error:
        raise SamplingError(str(error)) from error
    return lambda place, spec: RayWorker(ray, spec)


def _processes(workers: int, folder: Path) -> Launcher:
    """Workers as processes of this machine, on the GPUs that the trainer leaves free."""
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    visible = devices.split(",")[:count] if devices else [str(n) for n in range(count)]
    threads = max(1, torch.get_num_threads() // workers)

    def launch(place: int, spec: WorkerSpec) -> Worker:
        device = device_of(place, workers, local, visible)
        environment = worker_environment(os.environ, threads, device)
        return WorkerProcess(spec, folder / f"worker-{place}.log", environment)

    return launch
