"""Content-addressed cache of reference log-probs: each pair is computed once for all runs.

    reference-<model>-<dtype>.jsonl     {"key": ..., "chosen": nats, "rejected": nats} per line
    key = sha256(model fingerprint, dtype, temperature, the pair's token ids and response starts)

The key holds everything the values depend on, so a line is right for every run, and any number of
runs may share a folder. Only what changes the last bits of floats (batch shape, hardware, number of
threads) is not in it: a resumed run reads its own values again.

Several processes may write one file. Each append takes the file's lock, cuts off the incomplete
line of a killed writer, writes whole lines and syncs them to disk before it releases the lock.
Readers need no lock: they skip incomplete and malformed lines, whose values are computed again.
The lock is flock's: on a file system without it (some network ones), give each run its own folder.

Left out: eviction. A pair costs about 130 bytes; delete the file when the model is gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rlaif.batching.encode import Pair
from rlaif.training.config import TrainingError

_BLOCK = 1 << 12  # bytes read at once in the search for the last whole line


class ReferenceLogprobs(NamedTuple):
    """Reference log-probs of a pair's responses, summed over tokens; nats."""

    chosen: float
    rejected: float


class ReferenceCache:
    """Append-only file of reference log-probs; see the module for its format and locking.

    folder: created if missing. model: fingerprint of the reference's weights. dtype: dtype the
    log-probs are computed in (`numerics` of train.py). temperature: divides the logits.
    Raises TrainingError when the folder cannot be created.

    Example: `ReferenceCache(folder, backbone.fingerprint, "float32").read(keys)`
    """

    def __init__(self, folder: Path, model: str, dtype: str, temperature: float = 1.0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{folder}: cannot be created ({error.strerror}); choose another folder for the "
                "reference log-probs"
            ) from error
        self.path = folder / f"reference-{model[:16]}-{dtype}.jsonl"
        self._key_prefix = f"{model} {dtype} {temperature!r}\n".encode()

    def key(self, pair: Pair) -> str:
        """sha256 (hex) of the model, its numerics, and the pair's token ids; the pair's own id and
        label do not matter."""
        digest = hashlib.sha256(self._key_prefix)
        for row in (pair.chosen, pair.rejected):
            digest.update(f"{row.start} {' '.join(map(str, row.ids))}\n".encode())
        return digest.hexdigest()

    def read(self, keys: Iterable[str]) -> dict[str, ReferenceLogprobs]:
        """Cached values of these keys, without the missing ones; the file may exceed memory.

        Raises TrainingError when the file cannot be read.
        """
        wanted = set(keys)
        return {key: value for key, value in self._entries() if key in wanted}

    def _entries(self) -> Iterator[tuple[str, ReferenceLogprobs]]:
        try:
            with self.path.open("rb") as lines:
                for line in lines:
                    if entry := _parsed(line):
                        yield entry
        except FileNotFoundError:
            return
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be read ({error.strerror}); check its permissions"
            ) from error

    def append(self, values: Mapping[str, ReferenceLogprobs]) -> None:
        """Append values and sync them to disk.

        Raises TrainingError when the disk is full; values written earlier are kept.
        """
        lines = "".join(
            json.dumps({"key": key, "chosen": value.chosen, "rejected": value.rejected}) + "\n"
            for key, value in values.items()
        ).encode()
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # released with the descriptor, even by a kill
                _write_whole(file, lines, _end_of_lines(file))
            finally:
                os.close(file)
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error.strerror}); earlier values are kept: free "
                "some space and run again to go on from them"
            ) from error


def _parsed(line: bytes) -> tuple[str, ReferenceLogprobs] | None:
    """The key and values of a line; None for an incomplete or malformed one."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        value = ReferenceLogprobs(float(entry["chosen"]), float(entry["rejected"]))
        return (str(entry["key"]), value) if all(map(math.isfinite, value)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _end_of_lines(file: int) -> int:
    """Offset of the end of the last whole line."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_whole(file: int, lines: bytes, at: int) -> None:
    """Write all of the lines at offset `at`, or truncate the file to it."""
    os.ftruncate(file, at)
    try:
        written = 0
        while written < len(lines):
            written += os.write(file, lines[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, at)
        raise
