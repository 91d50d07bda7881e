"""Skipping what this machine can only emulate, which would test oneDNN's patience and not ours."""

from __future__ import annotations

import pytest

from hardware.dtypes import multiplies_bfloat16


def skip_if_emulated(dtype: str) -> None:
    """Skip a test in bfloat16 on a machine that multiplies in float32 alone."""
    if dtype == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("bfloat16 is emulated on this machine, and several times slower than float32")
