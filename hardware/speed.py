"""How fast this machine multiplies matrices: the number that predicts how long a model takes."""

from __future__ import annotations

import time

from hardware.dtypes import Dtype, resolve_dtype

_ROWS, _IN, _OUT = 128, 1536, 6144  # tokens of one engine step, and the shape of a small MLP
_REPEATS, _SECONDS = 40, 2.0


def matmul_gflops(dtype: Dtype = "auto") -> float:
    """GFLOP/s of a language model's matrix products on all cores of the CPU; two seconds at most.

    The best of many repeats: other work on the cores can only slow one down. Three weights take
    turns, so that none is found in the processor's cache, as in a model.
    """
    import torch

    resolved = resolve_dtype(dtype)
    x = torch.ones(_ROWS, _IN, dtype=resolved)
    weights = [torch.ones(_OUT, _IN, dtype=resolved) for _ in range(3)]
    best = float("inf")
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(_REPEATS):
            start = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(x, weight)
            best = min(best, (time.perf_counter() - start) / len(weights))
            if time.perf_counter() - began > _SECONDS:
                break
    return 2 * _ROWS * _IN * _OUT / best / 1e9
