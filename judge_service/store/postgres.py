"""The store as a PostgreSQL database, for servers on several machines.

A put returns after its commit. Lookups and commits run in two threads with one connection each;
requests that wait at the same time share a transaction and a few statements, so that the round trip
is paid once per batch, not once per read.

Two servers may compute the same read at once: one row is kept, and both answer with it. Rows are
inserted in key order, so that two servers with the same keys cannot deadlock.

A damaged row counts as missing, and the next put replaces it, where the role may UPDATE; else it
stays, and is computed again each time.

An unreachable database raises StoreUnavailable: a read that could not be stored is not answered.
The next one tries again, with a new connection.

Left out: a local fallback while the database is down, and connection pools that switch sessions
between transactions (PgBouncer's transaction mode).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from judge_service.engine import LabelLogprobs, Written
from judge_service.store.base import StoreError, StoreStats
from judge_service.store.batcher import Batcher
from judge_service.store.encoding import (
    DamagedRow,
    open_read,
    open_writing,
    seal_read,
    seal_writing,
)
from judge_service.store.postgres_connection import Database

READS = sa.table(
    "rlaif_reads",
    sa.column("key", sa.LargeBinary),
    sa.column("logprobs", sa.LargeBinary),
    sa.column("prompt_tokens", sa.Integer),
    sa.column("created", sa.BigInteger),
)
WRITINGS = sa.table(
    "rlaif_writings",
    sa.column("key", sa.LargeBinary),
    sa.column("text", sa.LargeBinary),
    sa.column("token_ids", sa.LargeBinary),
    sa.column("complete", sa.Boolean),
    sa.column("prompt_tokens", sa.Integer),
    sa.column("created", sa.BigInteger),
)
_MAX_BATCH = 1000
_STATEMENT_SECONDS = 30  # a batch takes milliseconds, unless something locks the tables
_NO_PRIVILEGE = "42501"  # SQLSTATE
_COUNTED_BYTES = 64 * 10**6  # tables up to this size are counted, larger ones estimated

Row = Mapping[str, Any]
"""Column name -> value."""

T = TypeVar("T")


class PostgresStore:
    """A `Store` in a database (see `Database` for the URL).

    Raises StoreError at once when the database cannot be reached, rejects this user, or has the
    schema of a newer version.
    """

    def __init__(self, url: str) -> None:
        self._closed = False
        self.damaged = 0
        self._database = Database(url, statement_seconds=_STATEMENT_SECONDS)
        try:
            self._database.prepare()
        except BaseException:
            self._database.close()
            raise
        self._reader = Batcher(self._find_all, max_batch=_MAX_BATCH)
        self._writer = Batcher(self._put_all, max_batch=_MAX_BATCH)

    async def find_read(self, key: bytes) -> LabelLogprobs | None:
        """Looks the key up together with the others that wait."""
        return self._intact(_read_in, await self._find(READS, key))

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        """Commits together with the others that wait; what another server stored first wins."""
        row = {
            "key": key,
            "logprobs": seal_read(key, answer),
            "prompt_tokens": answer.prompt_tokens,
        }
        kept = self._intact(_read_in, await self._put(READS, row))
        return replace(answer, logprobs=kept.logprobs) if kept else answer

    async def find_writing(self, key: bytes) -> Written | None:
        """Looks the key up together with the others that wait."""
        return self._intact(_writing_in, await self._find(WRITINGS, key))

    async def put_writing(self, key: bytes, written: Written) -> Written:
        """Commits together with the others that wait; what another server stored first wins."""
        row = {
            "key": key,
            "text": written.text.encode(),
            "token_ids": seal_writing(key, written),
            "complete": written.complete,
            "prompt_tokens": written.prompt_tokens,
        }
        kept = self._intact(_writing_in, await self._put(WRITINGS, row))
        if kept is None:
            return written
        return replace(written, text=kept.text, token_ids=kept.token_ids, complete=kept.complete)

    async def stats(self) -> StoreStats:
        """Row counts and size; above 64 MB the counts are PostgreSQL's estimates, within 10 %."""
        self._check_open()
        return await asyncio.to_thread(self._database.transact, _stats)

    async def close(self) -> None:
        """Finish waiting puts and lookups, then close all connections."""
        self._closed = True
        for batcher in (self._writer, self._reader):
            await asyncio.to_thread(batcher.close)
        self._database.close()

    async def _find(self, table: sa.TableClause, key: bytes) -> Row | None:
        self._check_open()
        return await self._reader.ask((table, key))

    async def _put(self, table: sa.TableClause, row: dict[str, Any]) -> Row:
        self._check_open()
        row["created"] = int(time.time())
        return await self._writer.ask((table, row))

    def _intact(self, read: Callable[[Row], T], row: Row | None) -> T | None:
        """What a row holds; None without one, or for a damaged one."""
        try:
            return None if row is None else read(row)
        except DamagedRow:
            self.damaged += 1
            return None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(
                f"the store is closed: {self._database.name}; do not use it after its server "
                "stopped"
            )

    def _find_all(self, lookups: Sequence[tuple[sa.TableClause, bytes]]) -> Sequence[Row | None]:
        def find(connection: sa.Connection) -> dict[sa.TableClause, dict[bytes, Row]]:
            return {
                table: _select(connection, table, {key for of, key in lookups if of is table})
                for table in (READS, WRITINGS)
            }

        rows = self._database.transact(find)
        return [rows[table].get(key) for table, key in lookups]

    def _put_all(self, puts: Sequence[tuple[sa.TableClause, Row]]) -> Sequence[Row]:
        def put(connection: sa.Connection) -> dict[sa.TableClause, dict[bytes, Row]]:
            rows: dict[sa.TableClause, dict[bytes, Row]] = {READS: {}, WRITINGS: {}}
            for table, row in puts:
                rows[table].setdefault(row["key"], row)
            return {table: _insert(connection, table, new) for table, new in rows.items()}

        kept = self._database.transact(put)
        return [kept[table][row["key"]] for table, row in puts]


def _select(
    connection: sa.Connection, table: sa.TableClause, keys: Iterable[bytes]
) -> dict[bytes, Row]:
    """The stored rows under these keys, by key."""
    wanted = list(keys)
    if not wanted:
        return {}
    rows = connection.execute(sa.select(table).where(table.c.key.in_(wanted)))
    return {row["key"]: dict(row) for row in rows.mappings()}


def _insert(
    connection: sa.Connection, table: sa.TableClause, new: Mapping[bytes, Row]
) -> dict[bytes, Row]:
    """Insert rows; returns by key what is stored afterwards: the existing row, or the new one.

    A new row takes the place of a damaged one, if this role may.
    """
    kept: dict[bytes, Row] = {}
    statement = insert(table).on_conflict_do_nothing().returning(table.c.key)
    while missing := sorted(new.keys() - kept.keys()):
        inserted = connection.execute(statement, [new[key] for key in missing]).scalars()
        kept |= {key: new[key] for key in inserted}
        # A row neither inserted nor found was deleted in between by `rlaif store gc`: try again.
        kept |= _select(connection, table, new.keys() - kept.keys())
    damaged = {key: row for key, row in kept.items() if row is not new[key] and _damaged(row)}
    return kept | _replace(connection, table, damaged, new) if damaged else kept


def _damaged(row: Row) -> bool:
    try:
        _read_in(row) if "logprobs" in row else _writing_in(row)
    except DamagedRow:
        return True
    return False


def _replace(
    connection: sa.Connection,
    table: sa.TableClause,
    damaged: Mapping[bytes, Row],
    new: Mapping[bytes, Row],
) -> dict[bytes, Row]:
    """Replace damaged rows, unless another server just did; returns what is stored afterwards."""
    try:
        with connection.begin_nested():
            for key in sorted(damaged):
                unchanged = (table.c[name] == value for name, value in damaged[key].items())
                connection.execute(sa.update(table).where(*unchanged).values(**new[key]))
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", "") != _NO_PRIVILEGE:
            raise
        return {}
    return _select(connection, table, damaged)


def _read_in(row: Row) -> LabelLogprobs:
    return open_read(row["key"], row["logprobs"], row["prompt_tokens"])


def _writing_in(row: Row) -> Written:
    values = (row[column] for column in ("key", "text", "token_ids", "complete", "prompt_tokens"))
    return open_writing(*values)


def _stats(connection: sa.Connection) -> StoreStats:
    size = partial(connection.scalar, sa.text("SELECT pg_total_relation_size(:name)"))
    tables = (READS.name, WRITINGS.name)
    reads, writings = (_approximate_count(connection, name) for name in tables)
    return StoreStats(reads, writings, sum(int(size({"name": name}) or 0) for name in tables))


def _approximate_count(connection: sa.Connection, table: str) -> int:
    parameters = {"name": table}
    size = connection.scalar(sa.text("SELECT pg_relation_size(:name)"), parameters) or 0
    if size <= _COUNTED_BYTES:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)
    estimate = sa.text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)")
    return max(0, int(connection.scalar(estimate, parameters) or 0))  # -1 before the first analysis
