"""Binary encoding of the stores' values: little-endian numbers, eight bytes each, and a checksum.

    logprobs or ids, exact to the bit │ CRC-32 of the row, four bytes

The checksum covers the row's key and all that is answered from it, so that a row whose bits have
changed, or that came under another key, is not answered. Rows of earlier versions have none: their
length says so. Unpacking truncated bytes raises DamagedRow.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

from judge_service.engine import LabelLogprobs, Written

_CHECKSUM = struct.Struct("<I")
_NUMBER_BYTES = 8
_MOST_LOGPROB = 1e-3  # log-probabilities are at most 0, but for rounding


class DamagedRow(ValueError):  # noqa: N818  reads as what it is
    """A row that does not hold what was stored in it."""


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Log-probabilities as float64."""
    return struct.pack(f"<{len(logprobs)}d", *logprobs)


def unpack_logprobs(packed: bytes) -> tuple[float, ...]:
    """Inverse of `pack_logprobs`, also with a checksum behind it, which is not checked."""
    return struct.unpack(f"<{len(packed) // 8}d", _numbers(packed))


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """Token ids as int64."""
    return struct.pack(f"<{len(token_ids)}q", *token_ids)


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """Inverse of `pack_ids`, also with a checksum behind it, which is not checked."""
    return struct.unpack(f"<{len(packed) // 8}q", _numbers(packed))


def seal_read(key: bytes, answer: LabelLogprobs) -> bytes:
    """The log-probabilities of a row, with its checksum."""
    packed = pack_logprobs(answer.logprobs)
    return packed + _checksum(packed, key, answer.prompt_tokens)


def open_read(key: bytes, sealed: bytes, prompt_tokens: int) -> LabelLogprobs:
    """The read of a row. Raises DamagedRow, also for numbers that no model gives."""
    _check(sealed, key, prompt_tokens)
    logprobs = unpack_logprobs(sealed)
    if not logprobs or not all(math.isfinite(each) and each <= _MOST_LOGPROB for each in logprobs):
        raise DamagedRow("log-probabilities out of range")
    return LabelLogprobs(logprobs, prompt_tokens, cached_tokens=0, stored=True)


def seal_writing(key: bytes, written: Written) -> bytes:
    """The token ids of a row, with its checksum."""
    packed = pack_ids(written.token_ids)
    return packed + _checksum(
        packed, key, written.text, bool(written.complete), written.prompt_tokens
    )


def open_writing(
    key: bytes, text: object, sealed: bytes, complete: object, prompt_tokens: int
) -> Written:
    """The writing of a row. Raises DamagedRow."""
    if not isinstance(text, bytes):
        raise DamagedRow("no text")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise DamagedRow("not UTF-8") from error
    _check(sealed, key, decoded, bool(complete), prompt_tokens)
    ids = unpack_ids(sealed)
    return Written(decoded, ids, bool(complete), prompt_tokens, cached_tokens=0, stored=True)


def _checksum(packed: bytes, *row: object) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(repr(row).encode(), zlib.crc32(packed)))


def _check(sealed: bytes, *row: object) -> None:
    """Raises DamagedRow unless the checksum, if there is one, is that of the row."""
    if not isinstance(sealed, bytes):
        raise DamagedRow("not a binary value")
    packed = _numbers(sealed)
    if len(sealed) > len(packed) and sealed[len(packed) :] != _checksum(packed, *row):
        raise DamagedRow("wrong checksum")


def _numbers(packed: bytes) -> bytes:
    """The bytes of the numbers, without the checksum."""
    rest = len(packed) % _NUMBER_BYTES
    if rest not in (0, _CHECKSUM.size):
        raise DamagedRow("truncated")
    return packed[: len(packed) - rest]
