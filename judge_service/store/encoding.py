"""Numbers as the stores keep them: little-endian, eight bytes each, so that they return to the bit.

Unpacking raises struct.error for bytes that were cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(logprobs)}d", *logprobs)


def unpack_logprobs(packed: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(packed) // 8}d", packed)


def pack_ids(token_ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(token_ids)}q", *token_ids)


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 8}q", packed)
