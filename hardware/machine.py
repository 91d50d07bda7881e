"""Facts about this machine that need no torch: cores, processor, GPUs, free disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA_SMI_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU; memory in bytes."""

    name: str
    memory: int
    free: int


def cpu_quota() -> float | None:
    """Cores that the container's CPU limit (cgroup v2) grants; None without a limit."""
    try:
        quota, period = _QUOTA.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return None


def usable_cores() -> float:
    """Cores that this process may run on, or fewer under a container's CPU limit."""
    if hasattr(os, "sched_getaffinity"):
        allowed = float(len(os.sched_getaffinity(0)))
    else:
        allowed = float(os.cpu_count() or 1)
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, quota)


def cpu_name() -> str:
    """The processor's model name, "" if unknown."""
    return _cpuinfo().get("model name", "")


def cpu_instructions() -> frozenset[str]:
    """The instruction sets of the processor, as Linux names them; empty if unknown."""
    info = _cpuinfo()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that nvidia-smi lists; none where it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total,memory.free,name", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_SECONDS
        )
        rows = [line.split(",", 2) for line in answer.stdout.splitlines() if line.strip()]
        return [
            Gpu(name.strip(), int(total) * 2**20, int(free) * 2**20) for total, free, name in rows
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or would be created."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
