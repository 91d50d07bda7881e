"""Free memory, memory given back, and the number of a model's parameters."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from hardware.model_folder import weight_files

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Number of a model's parameters; 0 where unknown.

    parameters: all of them. vocabulary: those of the input embedding and of a separate head, if the
    model has one.
    """

    parameters: int
    vocabulary: int


def available_bytes() -> int | None:
    """Memory available without swapping, within the container's limit; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # cgroup v2, where the page cache counts as used but can be reclaimed
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return free


def give_back_freed() -> None:
    """Return to the system what this process has freed; without glibc nothing happens.

    The C library keeps freed memory for later. After a model or a tokenizer was loaded that is
    hundreds of MiB, which nothing will need again.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def model_size(folder: Path) -> ModelSize:
    """The number of a model folder's parameters, from the headers of its safetensors files.

    ModelSize(0, 0) if one of them cannot be read, or there are none. Reads no weights.
    """
    parameters = vocabulary = 0
    for path in weight_files(folder):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
        except (OSError, ValueError, OverflowError, struct.error):
            return ModelSize(0, 0)
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            count = math.prod(tensor["shape"])
            parameters += count
            vocabulary += count if "embed_tokens" in name or "lm_head" in name else 0
    return ModelSize(parameters, vocabulary)
