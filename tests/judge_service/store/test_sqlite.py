"""The SQLite store: permissions, locks, and files that it must reject unharmed."""

from __future__ import annotations

import asyncio
import math
import os
import re
import resource
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from judge_service.engine import LabelLogprobs
from judge_service.store import sqlite
from judge_service.store.base import StoreError
from judge_service.store.encoding import DamagedRow, open_writing
from judge_service.store.sqlite import SQLiteStore


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(*logprobs: float) -> LabelLogprobs:
    return LabelLogprobs(logprobs, prompt_tokens=500, cached_tokens=0)


# Its file


async def test_only_the_owner_can_read_the_file_and_closing_removes_its_log(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), answer(-0.25, -1.5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await store.close()
    assert list(path.parent.iterdir()) == [path]  # the log was merged into it
    again = SQLiteStore(path)
    assert (await again.stats()).bytes == path.stat().st_size
    await again.close()


async def test_a_temporary_store_starts_empty_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    for _ in range(2):
        store = SQLiteStore(None)
        assert await store.find_read(key(1)) is None
        await store.put_read(key(1), answer(-0.5))
        assert (await store.stats()).reads == 1
        await store.close()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_a_lookup_does_not_wait_for_a_commit(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "reads.sqlite")
    await store.put_read(key(1), answer(-1.0))
    with locked(tmp_path / "reads.sqlite"):
        put = asyncio.create_task(store.put_read(key(2), answer(-2.0)))
        assert await store.find_read(key(1)) is not None
        assert await store.find_read(key(2)) is None
        assert not put.done()
    await put
    assert await store.find_read(key(2)) is not None
    await store.close()


# Errors


async def test_a_lock_that_is_never_released_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    store = SQLiteStore(tmp_path / "reads.sqlite")
    raised = pytest.raises(StoreError, match=r"reads\.sqlite.*locked by another process")
    with locked(tmp_path / "reads.sqlite"), raised:
        await store.put_read(key(1), answer(-1.0))
    await store.put_read(key(1), answer(-1.0))
    await store.close()


async def test_closing_does_not_wait_for_a_lock_that_is_never_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 3600.0)
    monkeypatch.setattr(sqlite, "_BUSY_STEP_SECONDS", 0.05)
    store = SQLiteStore(tmp_path / "reads.sqlite")
    with locked(tmp_path / "reads.sqlite"):
        put = asyncio.create_task(store.put_read(key(1), answer(-1.0)))
        await asyncio.sleep(0.1)  # it waits for the lock
        async with asyncio.timeout(120):
            await store.close()
    with pytest.raises(StoreError, match="locked by another process"):
        await put


def test_a_file_that_is_not_a_store_raises_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match=r"notes\.txt.*not a store.*choose another file"):
        SQLiteStore(path)
    assert path.read_text() == "Dear diary, " * 100


def test_another_programs_database_raises_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE urls (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"history\.sqlite.*another program"):
        SQLiteStore(path)
    assert path.read_bytes() == before


async def test_a_newer_store_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    await SQLiteStore(path).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version=4")
    with pytest.raises(StoreError, match=r"reads\.sqlite.*schema 4 .*this one supports up to 3"):
        SQLiteStore(path)


async def test_a_damaged_file_is_a_miss_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await asyncio.gather(*(store.put_read(key(i), answer(-1.0)) for i in range(2000)))
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:12288] + os.urandom(len(whole) - 12288))  # the schema is intact
    store = SQLiteStore(path)
    found = await asyncio.gather(*(store.find_read(key(i)) for i in range(2000)))
    assert set(found) == {None}
    assert store.damaged
    assert await store.put_read(key(7), answer(-2.0)) == answer(-2.0)
    await store.close()


async def test_a_file_without_its_tables_is_a_miss_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), answer(-1.0))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DROP TABLE reads")
    assert await store.find_read(key(1)) is None
    assert await store.put_read(key(1), answer(-2.0)) == answer(-2.0)
    assert store.damaged == 2
    await store.close()


ANSWER = answer(-0.25, -1.5)
NAN, HIGH = struct.pack("<2d", math.nan, -1.0), struct.pack("<2d", 0.5, -1.0)
NOT_UTF8 = b"\xff\xfe"
DAMAGE = {
    "a bit": lambda sealed: bytes([sealed[0] ^ 1]) + sealed[1:],
    "truncated": lambda sealed: sealed[:-3],
    "empty": lambda sealed: b"\0\0\0",
    "text": lambda sealed: "text",
    "text that is not UTF-8": lambda sealed: NOT_UTF8,
    "a number": lambda sealed: 7,
    "not a number": lambda sealed: NAN,
    "above certainty": lambda sealed: HIGH,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_row_is_a_miss_and_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), ANSWER)
    await store.put_read(key(2), ANSWER)
    await store.close()
    with closing(sqlite3.connect(path)) as file, file:
        (sealed,) = file.execute("SELECT logprobs FROM reads WHERE key = ?", (key(1),)).fetchone()
        damaged = DAMAGE[damage](sealed)
        value = "CAST(? AS TEXT)" if damaged is NOT_UTF8 else "?"
        file.execute(f"UPDATE reads SET logprobs = {value} WHERE key = ?", (damaged, key(1)))
    store = SQLiteStore(path)
    assert await store.find_read(key(1)) is None
    assert store.damaged == 1
    other = await store.find_read(key(2))
    assert other is not None
    assert other.logprobs == ANSWER.logprobs
    assert await store.put_read(key(1), answer(-3.0)) == answer(-3.0)
    again = await store.find_read(key(1))
    assert again is not None
    assert again.logprobs == (-3.0,)
    await store.close()


async def test_a_row_that_lost_a_label_with_its_checksum_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), ANSWER)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE reads SET logprobs = substr(logprobs, 1, 8)")
    assert await store.put_read(key(1), answer(-3.0, -0.1)) == answer(-3.0, -0.1)
    found = await store.find_read(key(1))
    assert found is not None
    assert found.logprobs == (-3.0, -0.1)
    assert store.damaged == 1
    await store.close()


def test_a_writing_without_its_text_is_damaged() -> None:
    with pytest.raises(DamagedRow):
        open_writing(key(1), None, b"", 1, 5)


async def test_a_row_under_another_key_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), ANSWER)
    await store.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE reads SET key = ?", (key(2),))
    store = SQLiteStore(path)
    assert await store.find_read(key(2)) is None
    await store.close()


async def test_a_row_without_a_checksum_from_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = SQLiteStore(path)
    await store.put_read(key(1), ANSWER)
    await store.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE reads SET logprobs = ?", (struct.pack("<2d", *ANSWER.logprobs),))
    store = SQLiteStore(path)
    found = await store.find_read(key(1))
    assert found is not None
    assert found.logprobs == ANSWER.logprobs
    assert not store.damaged
    await store.close()


@pytest.mark.parametrize(
    "template", ["/proc/reads.sqlite", "/proc/no/reads.sqlite", "{}", "{}/f/r"]
)
def test_a_path_that_cannot_be_a_file_raises_an_error(tmp_path: Path, template: str) -> None:
    (tmp_path / "f").write_text("a file, not a folder")
    path = template.format(tmp_path)
    with pytest.raises(StoreError, match=path):
        SQLiteStore(Path(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
async def test_a_read_only_folder_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    await SQLiteStore(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"reads\.sqlite"):
            SQLiteStore(path)
    finally:
        tmp_path.chmod(0o700)


async def test_a_full_disk_raises_an_error_and_acknowledged_rows_stay(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "reads.sqlite")
    await store.put_read(key(0), answer(-1.0))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))  # no file may grow beyond
    try:
        puts = (store.put_read(key(i), answer(-float(i))) for i in range(1, 2000))
        results = await asyncio.gather(*puts, return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    failed = [i for i, result in enumerate(results, start=1) if isinstance(result, StoreError)]
    assert failed
    assert re.search(r"reads\.sqlite.*free some space", str(results[failed[0] - 1]))
    assert (await store.stats()).reads == 2000 - len(failed)
    await asyncio.gather(*(store.put_read(key(i), answer(-float(i))) for i in failed))
    assert (await store.stats()).reads == 2000
    await store.close()
