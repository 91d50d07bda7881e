"""What a kind of work on shards has to say of itself.

A job is a plain value that can be sent to another process; opening it loads the model or connects
to the judge, once for all shards that the process makes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rlaif.data.shards.folder import Holds

Counts = dict[str, float | dict[str, float]]


@dataclass(frozen=True, slots=True)
class Made:
    """A shard that was made and has no name yet.

    file: Parquet, without its note. beside: other files of the shard, by the folder they go to.
    """

    file: Path
    rows: int
    counts: Counts
    beside: Mapping[str, Path] = field(default_factory=dict)


class ShardWorker(Protocol):
    """A job that is open: makes shards, one after another."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Whatever its rows depend on besides the shard they are made from; JSON values by name."""

    def make(self, shard: Path, folder: Path) -> Made:
        """The shard that `shard` becomes, in `folder`, which outlives a killed process: what was
        finished there is not done again. Raises UserError."""


class ShardJob(Protocol):
    """Work that can be done by any process that has this value."""

    takes: ClassVar[Holds]
    gives: ClassVar[Holds]

    def opened(self, out: Path) -> AbstractContextManager[ShardWorker]:
        """The worker, until the block ends. out: the folder of the result, for logs."""


def own_log(out: Path, what: str) -> Path:
    """A log of this process's own, among those of the others that make shards of `out`."""
    folder = out / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{what}-{socket.gethostname()}-{os.getpid()}.log"


def discard_log(log: Path) -> None:
    """Remove the log of work that ended well."""
    log.unlink(missing_ok=True)
    with suppress(OSError):  # others' logs are in it
        log.parent.rmdir()


def journals(folder: Path) -> dict[str, Path]:
    """The journals in a shard's folder, to be kept beside it: folder → file."""
    return {file.stem: file for file in sorted(folder.glob("*.journal.jsonl"))}


def added(one: Counts, other: Mapping[str, float | dict[str, float]]) -> Counts:
    """Counts of two shards together."""
    total: Counts = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if isinstance(value, dict):
            inner = before if isinstance(before, dict) else {}
            total[name] = {k: inner.get(k, 0) + value.get(k, 0) for k in inner | value}
        else:
            total[name] = (before if isinstance(before, int | float) else 0) + value
    return total
