"""Looking after a store in PostgreSQL; upkeep.py has the words, and the same for a file.

Servers go on meanwhile: rows are deleted some thousands at a time, each step its own transaction,
and VACUUM at the end locks nobody out. It gives the space of deleted rows to new ones, not to the
disk: for that there is VACUUM FULL, during which lookups and commits wait.

So a bound on bytes cannot go by the size of the files. It goes by what the rows need, with their
part of the indexes, when they lie close: see _NEEDS.

What it costs: `summarize` reads the indexes of the ages, `sweep` and `rows` read the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from judge_service.store.base import StoreError
from judge_service.store.encoding import unpack_ids, unpack_logprobs
from judge_service.store.postgres import READS, WRITINGS
from judge_service.store.postgres_connection import SCHEMA_VERSION, Database, schema_of
from judge_service.store.stats import RowStats, StoreSummary, SweepResult

_STEP = 5_000  # rows deleted in one transaction
_FETCH = 2_000  # rows that an export holds at a time
_TABLES = {"reads": READS.name, "writings": WRITINGS.name}
# Bytes of a row, measured: 93 in the table, 17 of them two labels; 78 in the index of the keys and
# 10 to 22 in that of the ages.
_NEEDS = {
    "reads": "163 + pg_column_size(logprobs)",
    "writings": "163 + pg_column_size(text) + pg_column_size(token_ids)",
}


class _Rows(NamedTuple):
    """The rows of a kind, and those of them that a sweep would delete."""

    rows: int
    bytes: int
    doomed: int
    doomed_bytes: int


def summarize(url: str) -> StoreSummary:
    """Raises StoreError, also where there is no store (none is made)."""
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
    """As upkeep.sweep; the bytes are what the rows need. A bound on bytes deletes whole seconds."""
    with _opened(url, "AUTOCOMMIT") as (_, connection):
        before = _cut(connection, older_than, max_bytes)
        found = {kind: _measure(connection, kind, before) for kind in _TABLES}
        bytes_before = sum(kind.bytes for kind in found.values())
        bytes_after = bytes_before - sum(kind.doomed_bytes for kind in found.values())
        deleted = {kind: rows.doomed for kind, rows in found.items()}
        if not dry_run:
            gone = 0
            for kind, table in _TABLES.items():
                deleted[kind] = 0
                for count in _delete(connection, table, before):
                    deleted[kind] += count
                    gone += count
                    progress(gone)
                connection.execute(sa.text(f"VACUUM (ANALYZE) {table}"))
            progress(sum(kind.rows for kind in found.values()))
        return SweepResult(deleted["reads"], deleted["writings"], bytes_before, bytes_after)


def rows(url: str, *, writings: bool) -> Iterator[dict[str, Any]]:
    """As upkeep.rows, in no order. Raises StoreError."""
    with _opened(url, "REPEATABLE READ") as (_, connection):
        in_pages = {"yield_per": _FETCH}  # a cursor of the server: memory stays flat
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
                f"{database.name}: no store is there; name the database of `rlaif serve --store`"
            )
        database.prepare()
        with database.connect() as connection:
            yield database, connection.execution_options(isolation_level=isolation)
    except sa.exc.SQLAlchemyError as error:
        raise database.explain(error) from None
    finally:
        database.close()


def _summarize(connection: sa.Connection, table: str) -> RowStats:
    query = (
        f"SELECT count(*), pg_total_relation_size('{table}'), min(created), max(created)"
        f" FROM {table}"
    )
    count, size, oldest, newest = connection.execute(sa.text(query)).one()
    return RowStats(count, size, oldest, newest, without_age=0)


def _cut(connection: sa.Connection, older_than: float | None, max_bytes: int | None) -> int:
    """Rows kept before this second go."""
    by_age = 0 if older_than is None else max(0, int(time.time() - older_than))
    if max_bytes is None:
        return by_age
    all_rows = " UNION ALL ".join(
        f"SELECT created, {_NEEDS[kind]} AS bytes FROM {table}" for kind, table in _TABLES.items()
    )
    # The youngest second up to which, from now back, more is kept than there is room for.
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
        f" FROM (SELECT created, {_NEEDS[kind]} AS bytes FROM {_TABLES[kind]}) AS every_row"
    )
    return _Rows(*map(int, connection.execute(sa.text(query), {"before": before}).one()))


def _delete(connection: sa.Connection, table: str, before: int) -> Iterator[int]:
    """Delete in steps, the oldest first; yields how many rows each one deleted.

    Rows that another sweep is deleting are left to it.
    """
    step = sa.text(
        f"WITH gone AS (DELETE FROM {table} WHERE key IN (SELECT key FROM {table}"
        "  WHERE created >= :since AND created < :before"
        "  ORDER BY created LIMIT :step FOR UPDATE SKIP LOCKED) RETURNING created)"
        " SELECT count(*), max(created) FROM gone"
    )
    since = 0
    while True:
        asked = {"since": since, "before": before, "step": _STEP}
        count, last = connection.execute(step, asked).one()
        if not count:
            return
        since = last  # what was deleted so far is not looked through again
        yield count
