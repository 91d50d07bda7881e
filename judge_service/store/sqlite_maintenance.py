"""Maintenance of a store in an SQLite file; maintenance.py documents the functions.

A server may keep using the file meanwhile. Rows are deleted in steps by key, each in its own
transaction with a pause after it, so that the server's commits get through. Only the end of `sweep`
takes longer: VACUUM rewrites the file (old rows are scattered among new ones, so whole pages seldom
become free) and commits wait for it; it needs as much free disk space as the file takes. Lookups
never wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_service.store.base import StoreError
from judge_service.store.encoding import DamagedRow, unpack_ids, unpack_logprobs
from judge_service.store.sqlite import SCHEMA_VERSION, connect, explain
from judge_service.store.stats import Progress, RowStats, StoreSummary, SweepResult

KINDS = ("reads", "writings")
_STEP = 20_000  # keys scanned per step, and at most deleted in one transaction
_PAUSE_S = 0.1  # after each step: SQLite's waiting writers poll the lock about that often
_SIZES = {  # approximate bytes of a row, to divide the file's bytes between the kinds
    "reads": "length(key) + length(logprobs) + 12",
    "writings": "2 * length(key) + length(CAST(text AS BLOB)) + length(token_ids) + 16",
}


@dataclass(frozen=True, slots=True)
class _Cutoff:
    """Rows created before `before` are deleted, and `bytes_of_last` bytes of that second's."""

    before: int
    bytes_of_last: int = 0


def summarize(path: Path) -> StoreSummary:
    """As maintenance.summarize."""
    with _opened(path) as connection:
        connection.execute("BEGIN")
        used, unused = _file_bytes(connection)
        rows = {kind: _rows_of(connection, kind) for kind in KINDS}
        connection.execute("COMMIT")
        all_bytes = sum(row[1] for row in rows.values()) or 1
        kinds = {
            kind: RowStats(n, used * size // all_bytes, oldest, newest, without)
            for kind, (n, size, oldest, newest, without) in rows.items()
        }
        log = path.with_name(path.name + "-wal")
        on_disk = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
        return StoreSummary(str(path), SCHEMA_VERSION, on_disk, unused, **kinds)


def sweep(
    path: Path,
    *,
    older_than: float | None,
    max_bytes: int | None,
    dry_run: bool,
    progress: Progress,
) -> SweepResult:
    """As maintenance.sweep."""
    with _opened(path) as connection:
        used, unused = _file_bytes(connection)
        cutoff = _cutoff(connection, used, older_than, max_bytes)
        if dry_run:
            expired = {kind: _expired(connection, kind, cutoff) for kind in KINDS}
            rows_bytes = sum(_rows_of(connection, kind)[1] for kind in KINDS) or 1
            freed = sum(size for _, size in expired.values())
            after = used - used * freed // rows_bytes
            return SweepResult(expired["reads"][0], expired["writings"][0], used + unused, after)

        # The bytes of the last second are a budget that both kinds draw on.
        deleted, budget, scanned = dict.fromkeys(KINDS, 0), cutoff.bytes_of_last, 0
        for kind in KINDS:
            for step_scanned, count, size in _delete(connection, kind, cutoff.before, budget):
                deleted[kind] += count
                budget -= size
                scanned += step_scanned
                progress(scanned)

        # Return the space to the disk, and empty the write-ahead log that VACUUM filled.
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        after = sum(_file_bytes(connection))
        return SweepResult(deleted["reads"], deleted["writings"], used + unused, after)


def rows(path: Path, *, writings: bool) -> Iterator[dict[str, Any]]:
    """As maintenance.rows."""
    with _opened(path) as connection:
        connection.execute("BEGIN")  # a snapshot: rows that are stored meanwhile are not seen
        query = "SELECT key, logprobs, prompt_tokens, created FROM reads"
        for key, logprobs, prompt_tokens, created in connection.execute(query):
            yield {
                "kind": "read",
                "key": key.hex(),
                "logprobs": unpack_logprobs(logprobs),
                "prompt_tokens": prompt_tokens,
                "created": created,
            }
        if not writings:
            return
        query = "SELECT key, text, token_ids, complete, prompt_tokens, created FROM writings"
        for key, text, ids, complete, prompt_tokens, created in connection.execute(query):
            yield {
                "kind": "writing",
                "key": key.hex(),
                "text": text,
                "token_ids": unpack_ids(ids),
                "complete": bool(complete),
                "prompt_tokens": prompt_tokens,
                "created": created,
            }


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise StoreError(f"no store found: {path}; give the file of `rlaif serve --store`")
    with closing(connect(path)) as connection:
        try:
            yield connection
        except sqlite3.Error as error:
            raise explain(error, path) from error
        except DamagedRow as error:
            raise StoreError(f"{path}: damaged (a row is truncated); delete it") from error


def _file_bytes(connection: sqlite3.Connection) -> tuple[int, int]:
    """(used, unused) bytes of the file's pages."""
    size, pages, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return (pages - free) * size, free * size


def _rows_of(
    connection: sqlite3.Connection, kind: str
) -> tuple[int, int, int | None, int | None, int]:
    """(rows, their bytes, oldest, newest, rows without an age)."""
    row: tuple[int, int, int | None, int | None, int] = connection.execute(
        f"SELECT count(*), coalesce(sum({_SIZES[kind]}), 0), min(nullif(created, 0)),"
        f" max(nullif(created, 0)), coalesce(sum(created = 0), 0) FROM {kind}"
    ).fetchone()
    return row


def _cutoff(
    connection: sqlite3.Connection, used: int, older_than: float | None, max_bytes: int | None
) -> _Cutoff:
    """What to delete. A limit on bytes is met by whole seconds and a part of the last one."""
    by_age = _Cutoff(0 if older_than is None else max(0, int(time.time() - older_than)))
    if max_bytes is None or used <= max_bytes:
        return by_age

    # Bytes per second of creation, oldest first, until the excess is covered.
    union = " UNION ALL ".join(
        f"SELECT created, {size} AS bytes FROM {kind}" for kind, size in _SIZES.items()
    )
    seconds = connection.execute(
        f"SELECT created, sum(bytes) FROM ({union}) GROUP BY created ORDER BY created"
    ).fetchall()
    rows_bytes = sum(size for _, size in seconds)
    excess = rows_bytes - rows_bytes * max_bytes // used
    for created, size in seconds:
        if excess <= size:
            by_size = _Cutoff(created, excess)
            return by_size if by_size.before >= by_age.before else by_age
        excess -= size
    return by_age


def _expired(connection: sqlite3.Connection, kind: str, cutoff: _Cutoff) -> tuple[int, int]:
    """(rows, bytes) of a kind that a cutoff deletes, exact to one row."""
    count, size, last, last_size = connection.execute(
        f"SELECT coalesce(sum(created < ?1), 0), coalesce(sum((created < ?1) * ({_SIZES[kind]})),"
        f" 0), coalesce(sum(created = ?1), 0), coalesce(sum((created = ?1) * ({_SIZES[kind]})), 0)"
        f" FROM {kind}",
        (cutoff.before,),
    ).fetchone()
    share = min(1.0, cutoff.bytes_of_last / last_size) if last_size else 0.0
    return count + round(last * share), size + round(last_size * share)


def _delete(
    connection: sqlite3.Connection, kind: str, before: int, bytes_of_last: int
) -> Iterator[tuple[int, int, int]]:
    """Delete in steps; yields (rows scanned, rows deleted, bytes of the last second) of each."""
    after, spent = b"", 0
    while True:
        # Choose by key order: the primary key is the only index of a file.
        page = connection.execute(
            f"SELECT key, created, {_SIZES[kind]} FROM {kind} WHERE key > ? ORDER BY key LIMIT ?",
            (after, _STEP),
        ).fetchall()
        keys, step_spent = [], 0
        for key, created, size in page:
            if created < before:
                keys.append((key,))
            elif created == before and spent + step_spent < bytes_of_last:
                keys.append((key,))
                step_spent += size

        # One short transaction per step, then a pause for the server's commits.
        if keys:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(f"DELETE FROM {kind} WHERE key = ?", keys)
            connection.execute("COMMIT")
            time.sleep(_PAUSE_S)
        spent += step_spent
        if not page:
            return
        after = page[-1][0]
        yield len(page), len(keys), step_spent
