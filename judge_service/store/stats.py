"""What is told of a store, whichever it is: judge_service/store/maintenance.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RowStats:
    rows: int
    bytes: int  # about: the file's bytes shared out by the size of the rows
    oldest: int | None  # seconds since 1970; None where no row has an age
    newest: int | None
    without_age: int  # rows from before schema 2


@dataclass(frozen=True, slots=True)
class StoreSummary:
    place: str  # the file, or the database without its password
    schema: int
    bytes: int  # of the file and its write-ahead log
    unused_bytes: int  # of the file, which `sweep` gives back; none of a database
    reads: RowStats
    writings: RowStats


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What was deleted, or would be."""

    reads: int
    writings: int
    bytes_before: int
    bytes_after: int  # an estimate where nothing was deleted yet
