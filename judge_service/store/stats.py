"""Summary types shared by all store backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int], None]
"""Called with the number of rows scanned so far."""


@dataclass(frozen=True, slots=True)
class RowStats:
    """The rows of one kind: reads or writings."""

    rows: int
    bytes: int  # approximate: the file's bytes divided by the size of the rows
    oldest: int | None  # seconds since 1970; None when no row has an age
    newest: int | None
    without_age: int  # rows from before schema 2


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """What a store holds, for `rlaif store stats`."""

    place: str  # the file, or the database without its password
    schema: int
    bytes: int  # of the file and its write-ahead log, or of the tables
    unused_bytes: int  # of the file, which `sweep` returns to the disk; 0 for a database
    reads: RowStats
    writings: RowStats


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Rows that a sweep deleted, or that it would have without dry_run."""

    reads: int
    writings: int
    bytes_before: int
    bytes_after: int  # an estimate in a dry run
