"""Reference log-probs by content: a pair's are computed once, whatever run asks for them.

    reference-<model>-<dtype>.jsonl     {"key": ..., "chosen": nats, "rejected": nats} per line
    key = sha256(model fingerprint, dtype, temperature, the pair's token ids and response starts)

Everything the numbers depend on is in the key, so a line is never wrong for another run, and a
folder may be shared by any number of them. What floats leave open to the last bit (batch shape,
hardware, number of threads) is not: a run that goes on reads its own numbers again.

Several processes may write one file. Each append takes the file's lock, cuts off what a killed
writer left of its last line, writes whole lines and is on disk before the lock goes. Readers need
no lock: they pass over a line without its end, or that is no line of this format; what it held is
computed again. The lock is flock's: on a file system without it (some of those over a network),
let each run have a folder of its own.

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

_BLOCK = 1 << 12  # bytes read at once while the last whole line is looked for


class ReferenceLogprobs(NamedTuple):
    """log ref of a pair's responses, each summed over its tokens; nats."""

    chosen: float
    rejected: float


class ReferenceCache:
    """Example: `ReferenceCache(folder, backbone.fingerprint, "float32").read(keys)`"""

    def __init__(self, folder: Path, model: str, dtype: str, temperature: float = 1.0) -> None:
        """model: the fingerprint of the reference's weights; dtype: what it is computed in.

        Raises TrainingError for a folder that cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{folder}: cannot be made ({error.strerror}); choose another folder for the "
                "reference log-probs"
            ) from error
        self.path = folder / f"reference-{model[:16]}-{dtype}.jsonl"
        self._of_all = f"{model} {dtype} {temperature!r}\n".encode()

    def key(self, pair: Pair) -> str:
        digest = hashlib.sha256(self._of_all)
        for row in (pair.chosen, pair.rejected):
            digest.update(f"{row.start} {' '.join(map(str, row.ids))}\n".encode())
        return digest.hexdigest()

    def read(self, keys: Iterable[str]) -> dict[str, ReferenceLogprobs]:
        """Those of the keys that it holds; the file may be larger than memory."""
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
            raise TrainingError(f"{self.path}: cannot be read ({error.strerror})") from error

    def append(self, found: Mapping[str, ReferenceLogprobs]) -> None:
        """On disk before it returns. Raises TrainingError on a full disk: what it held stays."""
        lines = "".join(
            json.dumps({"key": key, "chosen": of.chosen, "rejected": of.rejected}) + "\n"
            for key, of in found.items()
        ).encode()
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # goes with the descriptor, however we end
                _write_whole(file, lines, _end_of_lines(file))
            finally:
                os.close(file)
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error.strerror}); what it held is safe: make "
                "room and run again to go on from it"
            ) from error


def _parsed(line: bytes) -> tuple[str, ReferenceLogprobs] | None:
    """None for what is no whole line of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        value = ReferenceLogprobs(float(entry["chosen"]), float(entry["rejected"]))
        return (str(entry["key"]), value) if all(map(math.isfinite, value)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _end_of_lines(file: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_whole(file: int, lines: bytes, at: int) -> None:
    """Write all the lines from there on, or leave the file as long as that."""
    os.ftruncate(file, at)
    try:
        written = 0
        while written < len(lines):
            written += os.write(file, lines[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, at)
        raise
