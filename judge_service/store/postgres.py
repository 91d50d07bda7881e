"""The store as a PostgreSQL database, for servers on several machines.

A put returns after its commit. Lookups and commits run on two threads with a connection each; what
waits at the same time shares one transaction and a few statements, so that the way to the database
is paid once a batch, not once a read.

Two servers may compute the same read at once: one row is kept, and both answer with it. Rows are
inserted in the order of their keys, so that two servers with the same keys never wait for each
other in a circle.

A database that cannot be reached is StoreUnavailable: a read that could not be kept is not answered
as if it had been. The next one tries again, with a new connection.

Left out: a store beside the database for the time that it is away, and pools that hand a
connection to another session between transactions (PgBouncer's transaction mode).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from judge_service.engine import LabelLogprobs, Written
from judge_service.store.base import StoreError, StoreStats
from judge_service.store.batcher import Batcher
from judge_service.store.encoding import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
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
_COUNTED_BYTES = 64 * 10**6  # tables up to this size are counted, larger ones estimated

Row = Mapping[str, Any]
"""A row by its columns' names."""


class PostgresStore:
    """A `Store` in a database (see `Database` for the URL).

    Raises StoreError at once for a database that cannot be reached, refuses this user, or belongs
    to a newer version.
    """

    def __init__(self, url: str) -> None:
        self._closed = False
        self._database = Database(url, statement_seconds=_STATEMENT_SECONDS)
        try:
            self._database.prepare()
        except BaseException:
            self._database.close()
            raise
        self._reader = Batcher(self._find_all, most=_MAX_BATCH)
        self._writer = Batcher(self._put_all, most=_MAX_BATCH)

    async def find_read(self, key: bytes) -> LabelLogprobs | None:
        row = await self._find(READS, key)
        if row is None:
            return None
        logprobs = unpack_logprobs(row["logprobs"])
        return LabelLogprobs(logprobs, row["prompt_tokens"], cached_tokens=0, stored=True)

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        row = {
            "key": key,
            "logprobs": pack_logprobs(answer.logprobs),
            "prompt_tokens": answer.prompt_tokens,
        }
        stands = await self._put(READS, row)
        return replace(answer, logprobs=unpack_logprobs(stands["logprobs"]))

    async def find_writing(self, key: bytes) -> Written | None:
        row = await self._find(WRITINGS, key)
        if row is None:
            return None
        text, ids = row["text"].decode(), unpack_ids(row["token_ids"])
        return Written(
            text, ids, row["complete"], row["prompt_tokens"], cached_tokens=0, stored=True
        )

    async def put_writing(self, key: bytes, written: Written) -> Written:
        row = {
            "key": key,
            "text": written.text.encode(),
            "token_ids": pack_ids(written.token_ids),
            "complete": written.complete,
            "prompt_tokens": written.prompt_tokens,
        }
        stands = await self._put(WRITINGS, row)
        return replace(
            written,
            text=stands["text"].decode(),
            token_ids=unpack_ids(stands["token_ids"]),
            complete=stands["complete"],
        )

    async def stats(self) -> StoreStats:
        """Counts of tables above 64 MB are PostgreSQL's own estimates, within about a tenth."""
        self._check_open()
        return await asyncio.to_thread(self._database.transact, _stats)

    async def close(self) -> None:
        self._closed = True
        for batcher in (self._writer, self._reader):
            await asyncio.to_thread(batcher.close)
        self._database.close()

    async def _find(self, table: sa.TableClause, key: bytes) -> Row | None:
        self._check_open()
        return await asyncio.wrap_future(self._reader.submit((table, key)))

    async def _put(self, table: sa.TableClause, row: dict[str, Any]) -> Row:
        self._check_open()
        row["created"] = int(time.time())
        return await asyncio.wrap_future(self._writer.submit((table, row)))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(
                f"{self._database.name} is closed: it was used after its owner stopped"
            )

    def _find_all(self, asked: Sequence[tuple[sa.TableClause, bytes]]) -> Sequence[Row | None]:
        def find(connection: sa.Connection) -> dict[sa.TableClause, dict[bytes, Row]]:
            return {
                table: _select(connection, table, {key for of, key in asked if of is table})
                for table in (READS, WRITINGS)
            }

        found = self._database.transact(find)
        return [found[table].get(key) for table, key in asked]

    def _put_all(self, given: Sequence[tuple[sa.TableClause, Row]]) -> Sequence[Row]:
        def put(connection: sa.Connection) -> dict[sa.TableClause, dict[bytes, Row]]:
            return {
                table: _insert(connection, table, (row for of, row in given if of is table))
                for table in (READS, WRITINGS)
            }

        stand = self._database.transact(put)
        return [stand[table][row["key"]] for table, row in given]


def _select(
    connection: sa.Connection, table: sa.TableClause, keys: Iterable[bytes]
) -> dict[bytes, Row]:
    """The rows that are there, by their keys."""
    wanted = list(keys)
    if not wanted:
        return {}
    found = connection.execute(sa.select(table).where(table.c.key.in_(wanted)))
    return {row["key"]: dict(row) for row in found.mappings()}


def _insert(
    connection: sa.Connection, table: sa.TableClause, rows: Iterable[Row]
) -> dict[bytes, Row]:
    """What stands under each key afterwards: the row given first, or one that was there before."""
    given: dict[bytes, Row] = {}
    for row in rows:
        given.setdefault(row["key"], row)
    stand: dict[bytes, Row] = {}
    statement = insert(table).on_conflict_do_nothing().returning(table.c.key)
    while missing := sorted(given.keys() - stand.keys()):
        new = connection.execute(statement, [given[key] for key in missing]).scalars()
        stand |= {key: given[key] for key in new}
        # One that is neither new nor there was deleted in between, by `rlaif store gc`: once more.
        stand |= _select(connection, table, given.keys() - stand.keys())
    return stand


def _stats(connection: sa.Connection) -> StoreStats:
    size = partial(connection.scalar, sa.text("SELECT pg_total_relation_size(:name)"))
    tables = (READS.name, WRITINGS.name)
    reads, writings = (_about_count(connection, name) for name in tables)
    return StoreStats(reads, writings, sum(int(size({"name": name}) or 0) for name in tables))


def _about_count(connection: sa.Connection, table: str) -> int:
    of = {"name": table}
    size = connection.scalar(sa.text("SELECT pg_relation_size(:name)"), of) or 0
    if size <= _COUNTED_BYTES:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)
    estimate = sa.text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)")
    return max(0, int(connection.scalar(estimate, of) or 0))  # -1 before the first analysis
