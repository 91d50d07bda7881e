"""The store as an SQLite file, for the servers of one machine; readable only by its owner.

A put returns after its commit (WAL, synchronous=FULL). Lookups and commits run in two threads;
those that wait at the same time share one transaction, and so one fsync. Several processes may
share a file on a local disk.

A file of an older schema is migrated when it is opened, in one transaction.

A row that is damaged counts as missing and is replaced by the next put. Where SQLite itself finds
the file damaged, or our statements do not fit it, look-ups find nothing and puts keep nothing:
calls are answered, computed anew, and `damaged` counts both.

Left out: network file systems, where SQLite's locks are unreliable.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from judge_service.engine import LabelLogprobs, Written
from judge_service.store.base import StoreError, StoreStats, display_name
from judge_service.store.batcher import Batcher
from judge_service.store.encoding import (
    DamagedRow,
    open_read,
    open_writing,
    seal_read,
    seal_writing,
)

SCHEMA_VERSION = 3
_APPLICATION_ID = 0x524C4146  # "RLAF", distinguishes the file from those of other programs
_TABLES = (
    "CREATE TABLE reads (key BLOB PRIMARY KEY, logprobs BLOB NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, created INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    "CREATE TABLE writings (key BLOB PRIMARY KEY, text TEXT NOT NULL, token_ids BLOB NOT NULL,"
    " complete INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    " created INTEGER NOT NULL DEFAULT 0)",
)
# From each schema to the next. `created` is in seconds since 1970; 0: before schema 2, unknown.
_MIGRATIONS = {
    1: (
        "ALTER TABLE reads ADD COLUMN created INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE writings ADD COLUMN created INTEGER NOT NULL DEFAULT 0",
    ),
    2: (),  # values have checksums, which earlier versions cannot read
}
_BUSY_SECONDS = 30.0  # commits of another process take milliseconds
_BUSY_STEP_SECONDS = 0.25  # after which a closing store gives up
_CACHE_KIB = 32 * 1024  # holds the inner pages of ten million reads: a lookup costs one page
_MAX_BATCH = 4096

T = TypeVar("T")
_Job = Callable[[sqlite3.Connection], T]
_Select = Callable[[sqlite3.Connection, bytes], T | None]
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # such as a table that is not there: our statements are right
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
)


class SQLiteStore:
    """A `Store` in a file.

    path: the file, created if missing. None: an unnamed temporary file, on disk so that memory
    stays flat, deleted with the process.

    Raises StoreError: at once for a file that cannot be opened, is damaged, or belongs to another
    program or a newer version; later for a full disk. damaged: look-ups and puts so far that met a
    damaged row or file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.damaged = 0
        self._closed = False
        self._writer = _Worker(path, "BEGIN IMMEDIATE")
        try:
            # An unnamed file can have only one connection.
            self._reader = self._writer if path is None else _Worker(path, "BEGIN")
        except BaseException:
            self._writer.close()
            raise

    async def find_read(self, key: bytes) -> LabelLogprobs | None:
        """Looks the key up in the reader's transaction."""
        return await self._do(self._reader, partial(self._find, _select_read, key), None)

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        """Commits together with the others that wait; what another process stored first wins."""
        row = (key, seal_read(key, answer), answer.prompt_tokens, int(time.time()))
        insert = "INTO reads (key, logprobs, prompt_tokens, created) VALUES (?, ?, ?, ?)"

        def put(connection: sqlite3.Connection) -> LabelLogprobs:
            def same_labels(connection: sqlite3.Connection, key: bytes) -> LabelLogprobs | None:
                return _select_read(connection, key, labels=len(answer.logprobs))

            first = self._insert(connection, insert, row, same_labels)
            return replace(answer, logprobs=first.logprobs) if first else answer

        return await self._do(self._writer, put, answer)

    async def find_writing(self, key: bytes) -> Written | None:
        """Looks the key up in the reader's transaction."""
        return await self._do(self._reader, partial(self._find, _select_writing, key), None)

    async def put_writing(self, key: bytes, written: Written) -> Written:
        """Commits together with the others that wait; what another process stored first wins."""
        text, ids, now = written.text, seal_writing(key, written), int(time.time())
        row = (key, text, ids, written.complete, written.prompt_tokens, now)
        insert = (
            "INTO writings (key, text, token_ids, complete, prompt_tokens, created)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )

        def put(connection: sqlite3.Connection) -> Written:
            first = self._insert(connection, insert, row, _select_writing)
            if first is None:
                return written
            return replace(
                written, text=first.text, token_ids=first.token_ids, complete=first.complete
            )

        return await self._do(self._writer, put, written)

    async def stats(self) -> StoreStats:
        """Row counts and size, by scanning the keys: 0.2 s for five million reads."""

        def count(connection: sqlite3.Connection) -> StoreStats:
            def number(query: str) -> int:
                return int(connection.execute(query).fetchone()[0])

            return StoreStats(
                reads=number("SELECT count(*) FROM reads"),
                writings=number("SELECT count(*) FROM writings"),
                bytes=number("PRAGMA page_count") * number("PRAGMA page_size"),
            )

        return await self._do(self._reader, count, StoreStats(0, 0, 0))

    async def close(self) -> None:
        """Finish waiting puts and lookups, then close the file."""
        self._closed = True
        for worker in {self._writer, self._reader}:
            await asyncio.to_thread(worker.close)

    def _find(self, select: _Select[T], key: bytes, connection: sqlite3.Connection) -> T | None:
        """The row under this key; None where there is none, or a damaged one."""
        try:
            return select(connection, key)
        except DamagedRow:
            self.damaged += 1
            return None

    def _insert(
        self,
        connection: sqlite3.Connection,
        insert: str,
        row: tuple[Any, ...],
        select: _Select[T],
    ) -> T | None:
        """Insert a row, in place of a damaged one. Returns the one that was there before."""
        if connection.execute(f"INSERT OR IGNORE {insert}", row).rowcount:
            return None
        first = self._find(select, row[0], connection)
        if first is None:
            connection.execute(f"INSERT OR REPLACE {insert}", row)
        return first

    async def _do(self, worker: _Worker, job: _Job[T], if_damaged: T) -> T:
        """The job's result; `if_damaged` where SQLite finds the file damaged."""
        if self._closed:
            raise StoreError(
                f"the store is closed: {display_name(self.path)}; do not use it after its server "
                "stopped"
            )
        try:
            result: T = await worker.ask(job)
            return result
        except StoreError as error:
            if _primary_code(error.__cause__) not in _DAMAGED:
                raise
            self.damaged += 1
            return if_damaged


class _Worker(Batcher[_Job[Any], Any]):
    """A thread with its own connection; jobs that wait at the same time share a transaction.

    A job is answered only after its transaction has ended; if that fails, all its jobs fail. Locks
    of other processes are waited for, but not by a worker that is closing.
    """

    def __init__(self, path: Path | None, begin: str) -> None:
        self._path = path
        self._begin = begin
        self._connection = connect(path)
        self._connection.execute(f"PRAGMA busy_timeout={round(1000 * _BUSY_STEP_SECONDS)}")
        self._closing = False
        super().__init__(self._transact, max_batch=_MAX_BATCH)

    def close(self) -> None:
        self._closing = True
        super().close()
        self._connection.close()

    def _transact(self, jobs: Sequence[_Job[Any]]) -> Sequence[Any]:
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute(self._begin)
                results = [job(self._connection) for job in jobs]
                self._connection.execute("COMMIT")
            except Exception as error:
                self._roll_back()
                if not isinstance(error, sqlite3.Error):
                    raise
                waits = time.monotonic() < give_up and not self._closing
                if not (waits and _primary_code(error) == sqlite3.SQLITE_BUSY):
                    raise explain(error, self._path) from error
            else:
                return results

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # SQLite may have done so by itself, as on a full disk
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _select_read(
    connection: sqlite3.Connection, key: bytes, labels: int | None = None
) -> LabelLogprobs | None:
    """The read under this key. labels: their number, where it is known."""
    query = "SELECT logprobs, prompt_tokens FROM reads WHERE key = ?"
    row = connection.execute(query, (key,)).fetchone()
    if row is None:
        return None
    found = open_read(key, *row)
    if labels not in (None, len(found.logprobs)):
        raise DamagedRow("another number of labels")
    return found


def _select_writing(connection: sqlite3.Connection, key: bytes) -> Written | None:
    query = (
        "SELECT CAST(text AS BLOB), token_ids, complete, prompt_tokens FROM writings WHERE key = ?"
    )
    row = connection.execute(query, (key,)).fetchone()
    return None if row is None else open_writing(key, *row)


def connect(path: Path | None) -> sqlite3.Connection:
    """Connect to a store, creating it if missing. Raises StoreError."""
    try:
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create_private(path)
        connection = sqlite3.connect(
            path or "", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = lambda text: text.decode(errors="replace")  # of a damaged row
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise StoreError(
            f"{display_name(path)}: cannot create the store ({error.strerror}); choose another file"
        ) from error
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return connection


def _create_private(path: Path) -> None:
    """Create an empty file readable only by its owner.

    An existing file is not opened at all: closing any descriptor of an SQLite file drops every lock
    this process holds on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    def pragma(statement: str) -> Any:
        return connection.execute(f"PRAGMA {statement}").fetchone()

    pragma("synchronous=FULL")
    pragma(f"cache_size=-{_CACHE_KIB}")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        for table in _TABLES:
            connection.execute(table)
        pragma(f"application_id={_APPLICATION_ID}")
        pragma(f"user_version={SCHEMA_VERSION}")
    elif pragma("application_id") != (_APPLICATION_ID,):
        raise StoreError(f"{path}: an SQLite file of another program; choose another file")
    else:
        _migrate(connection, path)
    connection.execute("COMMIT")
    if path is not None and pragma("journal_mode=WAL") != ("wal",):
        raise StoreError(
            f"{path}: its file system does not support a write-ahead log; choose a file on a local "
            "disk"
        )


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    """Migrate an older store to this schema, within the open transaction."""
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 1 <= schema <= SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema {schema} of another version of this program (this one supports up to "
            f"{SCHEMA_VERSION}); use another file, or that version"
        )
    for version in range(schema, SCHEMA_VERSION):
        for statement in _MIGRATIONS[version]:
            connection.execute(statement)
    if schema < SCHEMA_VERSION:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _primary_code(error: BaseException | None) -> int:
    """SQLite's code of an error without its extension; 0 for other errors."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def explain(error: sqlite3.Error, path: Path | None) -> StoreError:
    """The StoreError for an error of SQLite: the file, the problem, the remedy."""
    code = _primary_code(error)
    problem, remedy = {
        sqlite3.SQLITE_NOTADB: ("not a store", "choose another file"),
        sqlite3.SQLITE_CORRUPT: (
            "damaged",
            "delete it, with the -wal and -shm files beside it: its reads are computed again when "
            "needed",
        ),
        sqlite3.SQLITE_FULL: ("cannot grow, the disk is full", "free some space and retry"),
        sqlite3.SQLITE_IOERR: (
            "cannot be written, the disk is full or failing",
            "free some space, or choose a file on another disk",
        ),
        sqlite3.SQLITE_BUSY: (
            f"locked by another process for {_BUSY_SECONDS:.0f} s",
            "stop that process, or choose another file",
        ),
        sqlite3.SQLITE_READONLY: ("read-only", "make it writable, or choose another file"),
        sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "choose a file in a writable folder"),
    }.get(code, ("cannot be used", "delete it or choose another file"))
    return StoreError(f"{display_name(path)}: {problem} ({error}); {remedy}")
