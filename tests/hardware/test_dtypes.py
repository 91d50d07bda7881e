"""Choice of dtype by hardware."""

from __future__ import annotations

import pytest
import torch

from hardware.dtypes import dtype_name, multiplies_bfloat16, resolve_dtype


@pytest.fixture
def processor(monkeypatch):
    """Makes torch report a machine without GPU whose processor has these instructions."""

    def pretend(*instructions: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(
            torch.cpu,
            "get_capabilities",
            lambda: {"avx2": True} | dict.fromkeys(instructions, True),
        )
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)

    return pretend


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bfloat16_on_a_processor_that_multiplies_it_natively(processor, instruction):
    processor(instruction)
    assert resolve_dtype("auto") is torch.bfloat16


def test_auto_is_float32_on_a_processor_with_only_avx2(processor):
    processor()
    assert not multiplies_bfloat16()
    assert dtype_name("auto") == "float32"


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_on_onednns_instructions_is_honored(processor, monkeypatch, variable):
    processor("avx512_bf16")
    monkeypatch.setenv(variable, "avx2")
    assert dtype_name("auto") == "float32"
    monkeypatch.setenv(variable, "AVX512_CORE_BF16")
    assert dtype_name("auto") == "bfloat16"


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_only_on_a_gpu_that_multiplies_it_natively(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert dtype_name("auto") == ("bfloat16" if native else "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_explicit_dtype_stays_as_it_is(processor, dtype):
    processor()
    assert dtype_name(dtype) == dtype
