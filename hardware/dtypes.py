"""Choice of dtype: one rule for the judge, the sampler, rollouts and trainers.

bfloat16 halves memory everywhere, but is fast only on hardware that multiplies it natively. Other
processors convert every operand first: 9 instead of 62 GFLOP/s per core, measured with oneDNN on an
AVX2 processor. So `auto` depends on the hardware, not on the dtype in which a model is stored.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

# Torch's and Linux's names for instructions that multiply bfloat16: x86 (the first two) and ARM.
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
# Limited to one of these sets, oneDNN never multiplies bfloat16 natively.
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
    """Whether the GPU, or the CPU if there is none, multiplies matrices natively in bfloat16.

    ONEDNN_MAX_CPU_ISA is honored: limited to AVX2, a newer processor counts as an AVX2 one.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return cpu_multiplies_bfloat16({name for name, present in capabilities.items() if present})


def cpu_multiplies_bfloat16(instructions: Collection[str]) -> bool:
    """Whether a processor with these instruction sets multiplies bfloat16, unless limited.

    Torch and Linux name the sets alike, so this also answers without torch, from
    `machine.cpu_instructions`.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _ONEDNN_WITHOUT_BFLOAT16:
        return False
    return any(name in instructions for name in _CPU_BFLOAT16)


def resolve_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype. auto: bfloat16 on hardware that multiplies it natively, else float32."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def dtype_name(dtype: Dtype) -> str:
    """The resolved dtype as spelled by settings and vLLM: "bfloat16", "float16" or "float32"."""
    return str(resolve_dtype(dtype)).removeprefix("torch.")
