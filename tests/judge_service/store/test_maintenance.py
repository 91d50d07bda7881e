"""Maintenance of a store file: migration, summary, sweep and export."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import struct
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from judge_service.engine import LabelLogprobs, Written
from judge_service.store import open_store
from judge_service.store.base import StoreError
from judge_service.store.maintenance import as_line, rows, summarize, sweep

ROOT = Path(__file__).resolve().parents[3]
DAY = 86_400
SCHEMA_1 = """
    CREATE TABLE reads (key BLOB PRIMARY KEY, logprobs BLOB NOT NULL,
      prompt_tokens INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE writings (key BLOB PRIMARY KEY, text TEXT NOT NULL, token_ids BLOB NOT NULL,
      complete INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL);
    PRAGMA application_id=1380729158;
    PRAGMA user_version=1;
    PRAGMA journal_mode=WAL;
"""


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def write_rows(path: Path, ages_s: list[float], start: int = 0) -> None:
    """Reads stored that many seconds ago."""

    asyncio.run(open_store(path).close())
    now, packed = int(time.time()), struct.pack("<2d", -1.0, -0.5)
    with closing(sqlite3.connect(path)) as store, store:
        store.executemany(
            "INSERT INTO reads VALUES (?, ?, 9, ?)",
            [(key(start + i), packed, now - int(age)) for i, age in enumerate(ages_s)],
        )


def write_schema_1(path: Path, reads: int) -> None:
    packed = struct.pack("<2d", -0.25, math.log(0.1))
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(SCHEMA_1)
        old.executemany(
            "INSERT INTO reads VALUES (?, ?, 7)", [(key(i), packed) for i in range(reads)]
        )
        ids = struct.pack("<2q", 5, 6)
        old.execute("INSERT INTO writings VALUES (?, 'Kinder.', ?, 1, 8)", (key(1), ids))


# Migration


async def test_a_store_of_schema_1_is_migrated_with_every_row_intact(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 300)
    store = open_store(path)
    reads = [await store.find_read(key(i)) for i in range(300)]
    assert {read.logprobs for read in reads if read} == {(-0.25, math.log(0.1))}
    assert None not in reads
    written = await store.find_writing(key(1))
    assert written == Written("Kinder.", (5, 6), True, 8, 0, stored=True)
    await store.put_read(key(300), LabelLogprobs((-1.0,), 9, 0))
    await store.close()
    summary = summarize(path)
    assert (summary.schema, summary.reads.rows, summary.writings.rows) == (3, 301, 1)
    assert (summary.reads.without_age, summary.writings.without_age) == (300, 1)
    assert summary.reads.oldest is not None
    assert abs(summary.reads.oldest - time.time()) < 60


def test_a_failed_migration_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 10)
    steps = (
        "ALTER TABLE reads ADD COLUMN created INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE nothing ADD COLUMN created INTEGER",
    )
    monkeypatch.setattr("judge_service.store.sqlite._MIGRATIONS", {1: steps})
    with pytest.raises(StoreError, match=r"reads\.sqlite"):
        open_store(path)
    with closing(sqlite3.connect(path)) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(old.execute("SELECT * FROM reads").fetchone()) == 3
    monkeypatch.undo()
    assert summarize(path).reads.rows == 10


def test_two_processes_that_open_an_old_store_at_once_both_find_it_migrated(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 1000)
    script = "import sys; from pathlib import Path; "
    script += "from judge_service.store.maintenance import summarize; "
    script += "print(summarize(Path(sys.argv[1])).reads.rows)"
    command = [sys.executable, "-c", script, str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in "12"]
    assert [process.communicate()[0].strip() for process in both] == ["1000", "1000"]


# Sweeping


def test_a_sweep_deletes_old_rows_and_returns_their_space_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_rows(path, [40 * DAY if i % 4 else 1 * DAY for i in range(8_000)])
    before = path.stat().st_size
    swept = sweep(path, older_than=30 * DAY)
    assert (swept.reads, swept.writings) == (6000, 0)
    assert swept.bytes_before == before
    assert swept.bytes_after == path.stat().st_size < before / 3
    assert list(tmp_path.iterdir()) == [path]
    kept = {row["key"] for row in rows(path, writings=False)}
    assert kept == {key(i).hex() for i in range(0, 8_000, 4)}
    assert sweep(path, older_than=30 * DAY).reads == 0


def test_rows_of_unknown_age_count_as_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 100)
    write_rows(path, [0.0] * 5, start=100)
    swept = sweep(path, older_than=10 * 365 * DAY)
    assert (swept.reads, swept.writings) == (100, 1)
    assert summarize(path).reads.rows == 5


@pytest.mark.parametrize("same_second", [False, True])
def test_a_limit_on_bytes_deletes_the_oldest_until_the_rest_fits(
    tmp_path: Path, same_second: bool
) -> None:
    path = tmp_path / "reads.sqlite"
    write_rows(path, [0.0 if same_second else float(i) for i in range(10_000)])
    limit = path.stat().st_size // 2
    estimate = sweep(path, max_bytes=limit, dry_run=True)
    assert summarize(path).reads.rows == 10_000
    swept = sweep(path, max_bytes=limit)
    assert 0.8 * limit < path.stat().st_size < 1.05 * limit
    assert abs(estimate.reads - swept.reads) <= 1
    assert abs(estimate.bytes_after - swept.bytes_after) < 0.2 * limit
    if not same_second:
        kept = sorted(int(row["key"], 16) for row in rows(path, writings=False))
        assert kept == list(range(len(kept)))  # the youngest
    assert sweep(path, max_bytes=10**9).reads == 0


def test_limits_on_age_and_bytes_delete_what_either_would(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_rows(path, [float(i * DAY) for i in range(100)])
    assert sweep(path, older_than=49.5 * DAY, max_bytes=10**9).reads == 50
    assert sweep(path, older_than=39.5 * DAY, max_bytes=1).reads == 50  # nothing fits into a byte


def test_a_server_keeps_reading_and_storing_while_another_process_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_rows(path, [40.0 * DAY] * 10_000)
    script = """
        import asyncio, sys
        from pathlib import Path
        from judge_service.engine import LabelLogprobs
        from judge_service.store import open_store

        async def main():
            store = open_store(Path(sys.argv[1]))
            print("open", flush=True)
            number = 10**6
            stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
            while not stop.done():
                key = number.to_bytes(32, "big")
                await store.put_read(key, LabelLogprobs((-1.0,), 1, 0))
                assert (await store.find_read(key)).logprobs == (-1.0,)
                number += 1
            await store.close()
            print(number - 10**6, flush=True)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "open\n"
        swept = sweep(path, older_than=30 * DAY)
        output, _ = server.communicate("")
    assert server.returncode == 0
    assert swept.reads == 10_000
    assert swept.bytes_after < swept.bytes_before / 10
    assert summarize(path).reads.rows == int(output) > 0


# Summary and export


def test_an_empty_store_can_be_summarized_and_swept(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_rows(path, [])
    summary = summarize(path)
    assert (summary.reads.rows, summary.reads.bytes, summary.reads.oldest) == (0, 0, None)
    assert sweep(path, older_than=1, max_bytes=1).reads == 0


def test_the_summary_divides_the_bytes_between_the_kinds(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 3000)
    summary = summarize(path)
    assert 0 < summary.writings.bytes < summary.reads.bytes <= summary.bytes


def test_an_export_is_exact_to_the_bit_and_has_text_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    write_schema_1(path, 2)
    lines = [json.loads(as_line(row)) for row in rows(path, writings=False)]
    assert [line["key"] for line in lines] == [key(0).hex(), key(1).hex()]
    assert lines[0] == {
        "kind": "read",
        "key": "0" * 64,
        "logprobs": [-0.25, math.log(0.1)],
        "prompt_tokens": 7,
        "created": 0,
    }
    assert "Kinder" not in json.dumps(lines)
    written = list(rows(path, writings=True))[-1]
    assert (written["kind"], written["text"], written["token_ids"]) == (
        "writing",
        "Kinder.",
        (5, 6),
    )


def test_a_missing_file_raises_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    for use in (
        summarize,
        lambda p: sweep(p, older_than=1),
        lambda p: list(rows(p, writings=True)),
    ):
        with pytest.raises(StoreError, match="no store found"):
            use(path)
    assert not path.exists()
