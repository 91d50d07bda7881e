"""Which number format to compute in: one rule for the judge, the sampler, rollouts and trainers.

bfloat16 halves memory everywhere, but it is fast only where the processor multiplies in it. Others
convert every operand first: 9 against 62 GFLOP/s a core, measured with oneDNN on an AVX2 processor.
So `auto` looks at the hardware and not at the dtype in which a model happens to be stored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

# torch's names for instructions that multiply bfloat16: x86 (the first two) and ARM.
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
# oneDNN multiplies no bfloat16 with instructions of these sets, whatever the processor has.
_ONEDNN_WITHOUT_BFLOAT16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}


def multiplies_bfloat16() -> bool:
    """Whether matrices are multiplied in bfloat16 by instructions of the GPU, or else of the CPU.

    ONEDNN_MAX_CPU_ISA counts: with AVX2 a newer processor behaves as an AVX2 one.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _ONEDNN_WITHOUT_BFLOAT16:
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _CPU_BFLOAT16)


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """auto: bfloat16 where the hardware multiplies in it, else float32. Others stay as they are."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def dtype_name(dtype: Dtype) -> str:
    """The resolved dtype as settings and vLLM spell it: "bfloat16", "float16" or "float32"."""
    return str(resolve_dtype(dtype)).removeprefix("torch.")
