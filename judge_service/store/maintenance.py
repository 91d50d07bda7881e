"""Looking after a store of reads: what is in it, deleting what is old, taking it elsewhere.

Servers may go on with it meanwhile: stores/sqlite_upkeep.py and stores/postgres_upkeep.py say what
they notice of it.

A row that was deleted is computed again when it is asked for: no label changes, only its cost.

Ages are counted from when a row was kept, not from when it was last found: a lookup writes nothing.
Rows kept before schema 2 have no age; they count as older than any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from judge_service.store import require_postgres
from judge_service.store import sqlite_maintenance as sqlite_upkeep
from judge_service.store.base import Place, is_url
from judge_service.store.stats import Progress, RowStats, StoreSummary, SweepResult

__all__ = ["RowStats", "StoreSummary", "SweepResult", "as_line", "rows", "summarize", "sweep"]


def summarize(place: Place) -> StoreSummary:
    """Raises StoreError, also where there is no store (none is made)."""
    if is_url(place):
        require_postgres(place)
        from judge_service.store import postgres_maintenance as postgres_upkeep

        return postgres_upkeep.summarize(str(place))
    return sqlite_upkeep.summarize(Path(place))


def sweep(
    place: Place,
    *,
    older_than: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    progress: Progress = lambda looked_at: None,
) -> SweepResult:
    """Delete rows kept more than `older_than` seconds ago; then the oldest, until the rest fits
    into about `max_bytes`; then give the space back to the disk.

    progress: called with the number of rows looked at so far. Raises StoreError.
    """
    how: Any = {
        "older_than": older_than, "max_bytes": max_bytes, "dry_run": dry_run, "progress": progress,
    }  # fmt: skip
    if is_url(place):
        require_postgres(place)
        from judge_service.store import postgres_maintenance as postgres_upkeep

        return postgres_upkeep.sweep(str(place), **how)
    return sqlite_upkeep.sweep(Path(place), **how)


def rows(place: Place, *, writings: bool) -> Iterator[dict[str, Any]]:
    """Every row as it was at one moment, ready for JSON; keys in hexadecimal.

    Reads hold no text. Writings hold what the judge wrote, and come only where they are asked for.
    Raises StoreError.
    """
    if is_url(place):
        require_postgres(place)
        from judge_service.store import postgres_maintenance as postgres_upkeep

        return postgres_upkeep.rows(str(place), writings=writings)
    return sqlite_upkeep.rows(Path(place), writings=writings)


def as_line(row: dict[str, Any]) -> str:
    """A row of `rows` as one line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"
