"""Speed of matrix multiplication on this machine, which predicts how long a model takes."""

from __future__ import annotations

import time

from hardware.dtypes import Dtype, resolve_dtype
from hardware.machine import cpu_quota

_ROWS, _IN, _OUT = 128, 1536, 6144  # tokens of one engine step, and the shape of a small MLP
_REPEATS, _SECONDS = 10, 1.0


def cores() -> float:
    """Cores available for computing: torch's threads, or fewer under a container's CPU limit."""
    import torch

    threads, quota = float(torch.get_num_threads()), cpu_quota()
    return threads if quota is None else min(threads, quota)


def matmul_gflops(dtype: Dtype = "auto") -> float:
    """GFLOP/s of a language model's matrix products on all cores of an idle CPU.

    Takes about a second. Measures one thread in CPU time, so that other load hardly matters, times
    the number of cores. Alternates between three weights, so that, as in a model, none stays in the
    processor's cache. The best of several repeats counts.
    """
    import torch

    resolved = resolve_dtype(dtype)
    # The shapes of a small language model's MLP; weights larger than the processor's cache.
    number, threads = cores(), torch.get_num_threads()
    x = torch.ones(_ROWS, _IN, dtype=resolved)
    weights = [torch.ones(_OUT, _IN, dtype=resolved) for _ in range(3)]
    best, spent = float("inf"), 0.0

    # One thread, whose CPU time other load hardly affects; the setting is global, so restore it.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_REPEATS):
                start = time.thread_time()
                for weight in weights:
                    torch.nn.functional.linear(x, weight)
                seconds = (time.thread_time() - start) / len(weights)
                best, spent = min(best, seconds), spent + seconds * len(weights)
                if spent > _SECONDS:
                    break
    finally:
        torch.set_num_threads(threads)
    return number * 2 * _ROWS * _IN * _OUT / best / 1e9
