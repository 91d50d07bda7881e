"""Maintenance of a store in PostgreSQL; maintenance.py documents the functions.

Servers keep working meanwhile: rows are deleted a few thousand at a time, each step in its own
transaction, and the VACUUM at the end takes no exclusive lock. It gives the space of deleted rows
to new ones, not to the disk; VACUUM FULL would, but lookups and commits wait for it.

A limit on bytes therefore cannot use the size of the files. It uses what the rows need when packed,
with their part of the indexes: see _ROW_BYTES.

Cost: `summarize` scans the indexes of `created`, `sweep` and `rows` scan the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from judge_service.store.base import StoreError
from judge_service.store.encoding import DamagedRow, unpack_ids, unpack_logprobs
from judge_service.store.postgres import READS, WRITINGS
from judge_service.store.postgres_connection import SCHEMA_VERSION, Database, schema_of
from judge_service.store.stats import RowStats, StoreSummary, SweepResult

_STEP = 5_000  # rows deleted in one transaction
_FETCH = 2_000  # rows that an export holds at a time
_TABLES = {"reads": READS.name, "writings": WRITINGS.name}
# Bytes of a row, measured: 93 in the table, 17 of them two labels; 78 in the index of the keys and
# 10 to 22 in that of `created`.
_ROW_BYTES = {
    "reads": "163 + pg_column_size(logprobs)",
    "writings": "163 + pg_column_size(text) + pg_column_size(token_ids)",
}


class _Rows(NamedTuple):
    """The rows of a kind, and the expired ones that a sweep would delete."""

    rows: int
    bytes: int
    expired: int
    expired_bytes: int


def summarize(url: str) -> StoreSummary:
    """As maintenance.summarize."""
    with _opened(url, "REPEATABLE READ") as (database, connection):
        kinds = {kind: _summarize(connection, table) for kind, table in _TABLES.items()}
        on_disk = sum(kind.bytes for kind in kinds.values())
        return StoreSummary(database.name, SCHEMA_VERSION, on_disk, 0, **kinds)


def sweep(
    url: str,
    *,
    older_than: float | None,
    max_bytes: int | None,
    dry_run: bool,
    progress: Callable[[int], None],
) -> SweepResult:
    """As maintenance.sweep; bytes are what the rows need, and a limit deletes whole seconds."""
    with _opened(url, "AUTOCOMMIT") as (_, connection):
        # What would go: the answer of a dry run, and the estimate of the bytes afterwards.
        before = _cutoff(connection, older_than, max_bytes)
        measured = {kind: _measure(connection, kind, before) for kind in _TABLES}
        bytes_before = sum(kind.bytes for kind in measured.values())
        bytes_after = bytes_before - sum(kind.expired_bytes for kind in measured.values())
        deleted = {kind: rows.expired for kind, rows in measured.items()}

        # Count what really went: servers add rows, and another sweep may run at the same time.
        if not dry_run:
            deleted_so_far = 0
            for kind, table in _TABLES.items():
                deleted[kind] = 0
                for count in _delete(connection, table, before):
                    deleted[kind] += count
                    deleted_so_far += count
                    progress(deleted_so_far)
                connection.execute(sa.text(f"VACUUM (ANALYZE) {table}"))
            progress(sum(kind.rows for kind in measured.values()))
        return SweepResult(deleted["reads"], deleted["writings"], bytes_before, bytes_after)


def rows(url: str, *, writings: bool) -> Iterator[dict[str, Any]]:
    """As maintenance.rows, in no order."""
    with _opened(url, "REPEATABLE READ") as (_, connection):
        in_pages = {"yield_per": _FETCH}  # a server-side cursor: memory stays flat
        for row in connection.execute(sa.select(READS), execution_options=in_pages):
            yield {
                "kind": "read",
                "key": row.key.hex(),
                "logprobs": unpack_logprobs(row.logprobs),
                "prompt_tokens": row.prompt_tokens,
                "created": row.created,
            }
        if not writings:
            return
        for row in connection.execute(sa.select(WRITINGS), execution_options=in_pages):
            yield {
                "kind": "writing",
                "key": row.key.hex(),
                "text": row.text.decode(),
                "token_ids": unpack_ids(row.token_ids),
                "complete": row.complete,
                "prompt_tokens": row.prompt_tokens,
                "created": row.created,
            }


@contextmanager
def _opened(url: str, isolation: Any) -> Iterator[tuple[Database, sa.Connection]]:
    database = Database(url)
    try:
        if not database.transact(schema_of):
            raise StoreError(
                f"no store found: {database.name}; give the database of `rlaif serve --store`"
            )
        database.prepare()
        with database.connect() as connection:
            yield database, connection.execution_options(isolation_level=isolation)
    except sa.exc.SQLAlchemyError as error:
        raise database.explain(error) from None
    except DamagedRow as error:
        raise StoreError(f"{database.name}: damaged (a row is truncated); delete it") from error
    finally:
        database.close()


def _summarize(connection: sa.Connection, table: str) -> RowStats:
    query = (
        f"SELECT count(*), pg_total_relation_size('{table}'), min(created), max(created)"
        f" FROM {table}"
    )
    count, size, oldest, newest = connection.execute(sa.text(query)).one()
    return RowStats(count, size, oldest, newest, without_age=0)


def _cutoff(connection: sa.Connection, older_than: float | None, max_bytes: int | None) -> int:
    """Rows created before this second are deleted."""
    by_age = 0 if older_than is None else max(0, int(time.time() - older_than))
    if max_bytes is None:
        return by_age
    all_rows = " UNION ALL ".join(
        f"SELECT created, {_ROW_BYTES[kind]} AS bytes FROM {table}"
        for kind, table in _TABLES.items()
    )
    # The newest second at which the rows from now back to it exceed the limit.
    query = (
        "SELECT max(created) FROM ("
        "  SELECT created, sum(sum(bytes)) OVER (ORDER BY created DESC) AS kept"
        f"  FROM ({all_rows}) AS every_row GROUP BY created"
        ") AS seconds WHERE kept > :max_bytes"
    )
    last = connection.scalar(sa.text(query), {"max_bytes": max_bytes})
    return by_age if last is None else max(by_age, int(last) + 1)


def _measure(connection: sa.Connection, kind: str, before: int) -> _Rows:
    query = (
        "SELECT count(*), coalesce(sum(bytes), 0), count(*) FILTER (WHERE created < :before),"
        " coalesce(sum(bytes) FILTER (WHERE created < :before), 0)"
        f" FROM (SELECT created, {_ROW_BYTES[kind]} AS bytes FROM {_TABLES[kind]}) AS every_row"
    )
    return _Rows(*map(int, connection.execute(sa.text(query), {"before": before}).one()))


def _delete(connection: sa.Connection, table: str, before: int) -> Iterator[int]:
    """Delete in steps, oldest first; yields the number of rows deleted by each.

    Rows that another sweep is deleting are skipped.
    """
    step = sa.text(
        f"WITH gone AS (DELETE FROM {table} WHERE key IN (SELECT key FROM {table}"
        "  WHERE created >= :since AND created < :before"
        "  ORDER BY created LIMIT :step FOR UPDATE SKIP LOCKED) RETURNING created)"
        " SELECT count(*), max(created) FROM gone"
    )
    since = 0
    while True:
        parameters = {"since": since, "before": before, "step": _STEP}
        count, last = connection.execute(step, parameters).one()
        if not count:
            return
        since = last  # do not scan the dead index entries again
        yield count
