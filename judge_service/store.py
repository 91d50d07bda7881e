"""What the judge has read, kept by content: an SQLite file from which no read is computed twice.

    key   = sha256(model identity ‖ engine numerics ‖ what was asked, to the token)
    value = the labels' log-probabilities (float64, in the order asked), or the text written

The identity counts without its name, which is only how somebody spelled the model: the same
weights, tokenizer, dtype and engine give the same numbers under any name. Of a prompt only the
digest is kept, the one that receipts carry; a text that the judge wrote is kept as it stands, so
the file is readable by its owner alone.

A put returns after its commit (WAL, synchronous=FULL): what was acknowledged survives kill -9 and
a power cut. Lookups and commits run on two threads; those that wait at the same time share one
transaction, and so one sync of the disk. Several processes may share a file on a local disk.

Every row knows when it was kept, so that the old ones can be told and deleted (upkeep.py). A file
of an older schema is brought to this one when it is opened, in one transaction.

Left out: eviction while serving (a read takes about 70 bytes on the disk) and stores across
machines.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs, Written
from judge_service.judgment import ModelIdentity
from judge_service.template import prompt_sha256

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x524C4146  # "RLAF", by which SQLite files of other programs are told apart
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
}
_BUSY_SECONDS = 30.0  # commits of another process take milliseconds
_CACHE_KIB = 32 * 1024  # holds the inner pages of ten million reads: a lookup costs one page
_MAX_BATCH = 4096

T = TypeVar("T")
_Job = Callable[[sqlite3.Connection], T]


class StoreError(UserError):
    """A store that cannot be used: which file, what is wrong, and the remedy."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    reads: int
    writings: int
    bytes: int  # on the disk


def read_key(identity: ModelIdentity, prompt_ids: Sequence[int], label_ids: Sequence[int]) -> bytes:
    """The 32 bytes that name a read. A receipt (model and prompt_sha256) names the same ones."""
    return _key("read", identity, prompt_sha256(prompt_ids, label_ids))


def write_key(
    identity: ModelIdentity,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> bytes:
    """The 32 bytes that name a piece of writing. Greedy writing has no use for a seed."""
    drawn = [float(temperature), seed] if temperature > 0 else []
    return _key("write", identity, list(prompt_ids), max_tokens, *drawn)


class ReadStore:
    """Reads and writings by their keys. Safe to use from many coroutines at once.

    path: the file, made when it is not there. None: a nameless temporary file, on the disk so that
    memory stays flat, and gone with the process.

    Raises StoreError, at once for a file that cannot be opened, is damaged, belongs to another
    program or to a newer version; later for a disk that is full. What was acknowledged before
    stays readable, and the next put tries again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._closed = False
        self._writer = _Worker(path, "BEGIN IMMEDIATE")
        try:
            # A nameless file has one connection only.
            self._reader = self._writer if path is None else _Worker(path, "BEGIN")
        except BaseException:
            self._writer.stop()
            self._writer.join()
            raise

    async def find_read(self, key: bytes) -> LabelLogprobs | None:
        return await self._do(self._reader, lambda c: _select_read(c, key))

    async def put_read(self, key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        """Keep an answer; returns once it is committed.

        When another process kept one under this key first, that one stands and is returned: what
        is answered is always what can be found again.
        """
        logprobs = struct.pack(f"<{len(answer.logprobs)}d", *answer.logprobs)
        row = (key, logprobs, answer.prompt_tokens, int(time.time()))

        def put(connection: sqlite3.Connection) -> LabelLogprobs:
            new = connection.execute(
                "INSERT OR IGNORE INTO reads (key, logprobs, prompt_tokens, created)"
                " VALUES (?, ?, ?, ?)",
                row,
            )
            first = None if new.rowcount else _select_read(connection, key)
            return replace(answer, logprobs=first.logprobs) if first else answer

        return await self._do(self._writer, put)

    async def find_writing(self, key: bytes) -> Written | None:
        return await self._do(self._reader, lambda c: _select_writing(c, key))

    async def put_writing(self, key: bytes, written: Written) -> Written:
        """As `put_read`."""
        ids = struct.pack(f"<{len(written.token_ids)}q", *written.token_ids)
        now = int(time.time())
        row = (key, written.text, ids, written.complete, written.prompt_tokens, now)

        def put(connection: sqlite3.Connection) -> Written:
            new = connection.execute(
                "INSERT OR IGNORE INTO writings"
                " (key, text, token_ids, complete, prompt_tokens, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            first = None if new.rowcount else _select_writing(connection, key)
            if first is None:
                return written
            return replace(
                written, text=first.text, token_ids=first.token_ids, complete=first.complete
            )

        return await self._do(self._writer, put)

    async def stats(self) -> StoreStats:
        """Counts by scanning the keys: 0.2 s for five million reads."""

        def count(connection: sqlite3.Connection) -> StoreStats:
            def number(query: str) -> int:
                return int(connection.execute(query).fetchone()[0])

            return StoreStats(
                reads=number("SELECT count(*) FROM reads"),
                writings=number("SELECT count(*) FROM writings"),
                bytes=number("PRAGMA page_count") * number("PRAGMA page_size"),
            )

        return await self._do(self._reader, count)

    async def close(self) -> None:
        """Commit what was put, then let go of the file. Closing twice is harmless."""
        self._closed = True
        for worker in {self._writer, self._reader}:
            worker.stop()
            await asyncio.to_thread(worker.join)

    async def _do(self, worker: _Worker, job: _Job[T]) -> T:
        if self._closed:
            raise StoreError(f"{_shown(self.path)} is closed: it was used after its owner stopped")
        return await asyncio.wrap_future(worker.submit(job))


class _Worker:
    """A thread with a connection of its own; the jobs that wait share a transaction.

    Nothing is answered before its transaction has ended; when that fails, all its jobs fail.
    """

    def __init__(self, path: Path | None, begin: str) -> None:
        self._path = path
        self._begin = begin
        self._connection = connect(path)
        self._queue: SimpleQueue[tuple[_Job[Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="read-store", daemon=True)
        self._thread.start()

    def submit(self, job: _Job[T]) -> Future[T]:
        future: Future[T] = Future()
        self._queue.put((job, future))
        return future

    def stop(self) -> None:
        """End after the jobs that were submitted before."""
        self._queue.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            batch = [self._queue.get()]
            while len(batch) < _MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            last = None in batch
            self._transact([item for item in batch if item is not None])
        self._connection.close()

    def _transact(self, batch: list[tuple[_Job[Any], Future[Any]]]) -> None:
        try:
            self._connection.execute(self._begin)
            results = [job(self._connection) for job, _ in batch]
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            reason = explain(error, self._path) if isinstance(error, sqlite3.Error) else error
            for _, future in batch:
                if future.set_running_or_notify_cancel():
                    future.set_exception(reason)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.set_running_or_notify_cancel():  # a put is carried out though nobody waits
                future.set_result(result)

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # SQLite may have done so by itself, as on a full disk
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _key(kind: str, identity: ModelIdentity, *asked: Any) -> bytes:
    # Every field but the name, so that one added later keeps what it tells apart, apart.
    numerics = {field: value for field, value in asdict(identity).items() if field != "name"}
    content = json.dumps([kind, numerics, *asked], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()


def _select_read(connection: sqlite3.Connection, key: bytes) -> LabelLogprobs | None:
    query = "SELECT logprobs, prompt_tokens FROM reads WHERE key = ?"
    row = connection.execute(query, (key,)).fetchone()
    if row is None:
        return None
    logprobs = struct.unpack(f"<{len(row[0]) // 8}d", row[0])
    return LabelLogprobs(logprobs, prompt_tokens=row[1], cached_tokens=0, stored=True)


def _select_writing(connection: sqlite3.Connection, key: bytes) -> Written | None:
    query = "SELECT text, token_ids, complete, prompt_tokens FROM writings WHERE key = ?"
    row = connection.execute(query, (key,)).fetchone()
    if row is None:
        return None
    text, ids, complete, prompt_tokens = row
    token_ids = struct.unpack(f"<{len(ids) // 8}q", ids)
    return Written(text, token_ids, bool(complete), prompt_tokens, cached_tokens=0, stored=True)


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection to a store, made where there is none. Raises StoreError."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_private(path)
        connection = sqlite3.connect(
            path or "", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise StoreError(
            f"{_shown(path)} cannot be made ({error.strerror}); choose another place for it"
        ) from error
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return connection


def _create_private(path: Path) -> None:
    """An empty file for its owner alone; one that is there is not even opened.

    (Closing a descriptor of an SQLite file drops every lock this process holds on it.)
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
        raise StoreError(f"{path}: an SQLite file of another program; name another file")
    else:
        _migrate(connection, path)
    connection.execute("COMMIT")
    if path is not None and pragma("journal_mode=WAL") != ("wal",):
        raise StoreError(
            f"{path}: its file system cannot hold a write-ahead log; name a file on a local disk"
        )


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    """Bring an older store to this schema, within the transaction that is open."""
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 1 <= schema <= SCHEMA_VERSION:
        raise StoreError(
            f"{path}: made by another version of this program (schema {schema}, this one knows "
            f"{SCHEMA_VERSION}); name another file, or use that version"
        )
    for version in range(schema, SCHEMA_VERSION):
        for statement in _MIGRATIONS[version]:
            connection.execute(statement)
    if schema < SCHEMA_VERSION:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def explain(error: sqlite3.Error, path: Path | None) -> StoreError:
    """SQLite's error as the user should read it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension in higher bits
    problems = {
        sqlite3.SQLITE_NOTADB: "is no store; name another file",
        sqlite3.SQLITE_CORRUPT: "is damaged; delete it, with the -wal and -shm files beside it: "
        "what it held is computed again when it is asked for",
        sqlite3.SQLITE_FULL: "cannot grow, the disk is full; make room and ask again",
        sqlite3.SQLITE_IOERR: "cannot be written, the disk is full or fails; make room, or name a "
        "file on another disk",
        sqlite3.SQLITE_BUSY: f"was locked by another process for {_BUSY_SECONDS:.0f} s; end that "
        "one, or name another file",
        sqlite3.SQLITE_READONLY: "is read-only; make it writable, or name another file",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; it must be a file in a folder one can write to",
    }
    problem = problems.get(code, "cannot be used; delete it or name another file")
    what, _, remedy = problem.partition("; ")
    return StoreError(f"{_shown(path)} {what} ({error}); {remedy}")


def _shown(path: Path | None) -> str:
    return "the temporary store" if path is None else f"{path}:"
