"""Maintenance of a store of reads: summarize it, delete old rows, export them.

Servers may keep using the store meanwhile; sqlite_maintenance.py and postgres_maintenance.py
describe what they notice.

A deleted row is computed again when it is needed: no label changes, only its cost.

Ages count from when a row was stored, not from its last lookup: a lookup writes nothing. Rows from
before schema 2 have no age and count as the oldest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from judge_service.store import require_postgres, sqlite_maintenance
from judge_service.store.base import Location, is_url
from judge_service.store.stats import Progress, RowStats, StoreSummary, SweepResult

__all__ = ["RowStats", "StoreSummary", "SweepResult", "as_line", "rows", "summarize", "sweep"]


def summarize(location: Location) -> StoreSummary:
    """Count rows, bytes and ages. Raises StoreError, also for a store that does not exist."""
    if is_url(location):
        require_postgres(location)
        from judge_service.store import postgres_maintenance

        return postgres_maintenance.summarize(str(location))
    return sqlite_maintenance.summarize(Path(location))


def sweep(
    location: Location,
    *,
    older_than: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    progress: Progress = lambda scanned: None,
) -> SweepResult:
    """Delete old rows and give their space to the disk (a file) or to new rows (a database).

    older_than: seconds; rows stored longer ago are deleted. max_bytes: then the oldest are, until
    about this much is left. None: no limit. dry_run: estimate only. progress: called with the
    number of rows scanned so far. Raises StoreError.
    """
    options: Any = {
        "older_than": older_than, "max_bytes": max_bytes, "dry_run": dry_run, "progress": progress,
    }  # fmt: skip
    if is_url(location):
        require_postgres(location)
        from judge_service.store import postgres_maintenance

        return postgres_maintenance.sweep(str(location), **options)
    return sqlite_maintenance.sweep(Path(location), **options)


def rows(location: Location, *, writings: bool) -> Iterator[dict[str, Any]]:
    """Every row of a consistent snapshot, ready for JSON; keys in hexadecimal.

    Reads contain no text. `writings` adds the texts that the judge wrote. Raises StoreError.
    """
    if is_url(location):
        require_postgres(location)
        from judge_service.store import postgres_maintenance

        return postgres_maintenance.rows(str(location), writings=writings)
    return sqlite_maintenance.rows(Path(location), writings=writings)


def as_line(row: dict[str, Any]) -> str:
    """A row of `rows` as one line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"
