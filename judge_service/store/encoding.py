"""Binary encoding of numbers in the stores: little-endian, eight bytes each, exact to the bit.

Unpacking truncated bytes raises struct.error.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Log-probabilities as float64."""
    return struct.pack(f"<{len(logprobs)}d", *logprobs)


def unpack_logprobs(packed: bytes) -> tuple[float, ...]:
    """Inverse of `pack_logprobs`."""
    return struct.unpack(f"<{len(packed) // 8}d", packed)


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """Token ids as int64."""
    return struct.pack(f"<{len(token_ids)}q", *token_ids)


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """Inverse of `pack_ids`."""
    return struct.unpack(f"<{len(packed) // 8}q", packed)
