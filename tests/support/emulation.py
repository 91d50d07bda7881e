"""Skips tests in a dtype that this machine only emulates, which is too slow to test."""

from __future__ import annotations

import pytest

from hardware.dtypes import multiplies_bfloat16


def skip_if_emulated(dtype: str) -> None:
    """Skip a bfloat16 test on a machine without bfloat16 arithmetic."""
    if dtype == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("bfloat16 is emulated on this machine, several times slower than float32")
