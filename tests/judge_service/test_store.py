"""The store of reads: what it keeps, what it survives, and how it says no."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import resource
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service import store as store_module
from judge_service.engine import LabelLogprobs, Written
from judge_service.judgment import ModelIdentity
from judge_service.store import ReadStore, StoreError, read_key, write_key

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelIdentity("qwen", "0" * 64, "1" * 64, "bfloat16", "vllm 0.32.0 cpu")
LOGPROBS = st.floats(max_value=0.0, allow_nan=False, allow_infinity=False)
WRITING = {"max_tokens": 64, "temperature": 1.0, "seed": 7}


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(*logprobs: float, cached_tokens: int = 0) -> LabelLogprobs:
    return LabelLogprobs(logprobs, prompt_tokens=500, cached_tokens=cached_tokens)


def bits(values: tuple[float, ...]) -> bytes:
    """So that 0.0 and -0.0 differ."""
    return struct.pack(f"{len(values)}d", *values)


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


# Keys


def test_a_read_s_key_is_the_digest_of_what_decides_its_numbers() -> None:
    asked = hashlib.sha256(b"[[1,2,3],[7,8]]").hexdigest()
    numerics = {
        "dtype": "bfloat16",
        "engine": "vllm 0.32.0 cpu",
        "tokenizer_sha256": "1" * 64,
        "weights_sha256": "0" * 64,
    }
    content = json.dumps(["read", numerics, asked], separators=(",", ":")).encode()
    assert read_key(MODEL, (1, 2, 3), [7, 8]) == hashlib.sha256(content).digest()


@pytest.mark.parametrize("field", ["weights_sha256", "tokenizer_sha256", "dtype", "engine"])
def test_another_model_or_another_arithmetic_never_shares_a_key(field: str) -> None:
    other = replace(MODEL, **{field: "other"})
    assert read_key(other, [1], [7]) != read_key(MODEL, [1], [7])
    assert write_key(other, [1], **WRITING) != write_key(MODEL, [1], **WRITING)


def test_the_same_model_under_another_name_shares_its_keys() -> None:
    other = replace(MODEL, name="my-copy")
    assert read_key(other, [1], [7]) == read_key(MODEL, [1], [7])
    assert write_key(other, [1], **WRITING) == write_key(MODEL, [1], **WRITING)


def test_prompt_labels_and_label_order_all_count() -> None:
    asked = [([1, 2], [3]), ([1], [2, 3]), ([1], [3, 2]), ([12], [3]), ([1, 2, 3], [])]
    assert len({read_key(MODEL, *ids) for ids in asked}) == len(asked)


def test_how_it_is_written_counts_and_greedy_writing_has_no_seed() -> None:
    def written(**changes: float) -> bytes:
        return write_key(MODEL, [1, 2], **{**WRITING, **changes})

    asked = [written(), written(max_tokens=65), written(temperature=0.5), written(seed=8)]
    assert len(set(asked)) == 4
    assert written(temperature=0.0, seed=1) == written(temperature=0, seed=2)
    assert written(temperature=0.0) not in asked


# Keeping


@given(st.lists(LOGPROBS, min_size=1, max_size=9))
def test_log_probabilities_come_back_to_the_bit(logprobs: list[float]) -> None:
    async def there_and_back() -> LabelLogprobs | None:
        store = ReadStore(None)
        await store.put_read(key(1), answer(*logprobs, cached_tokens=96))
        found = await store.find_read(key(1))
        await store.close()
        return found

    found = asyncio.run(there_and_back())
    assert found is not None
    assert bits(found.logprobs) == bits(tuple(logprobs))
    assert (found.prompt_tokens, found.cached_tokens, found.stored) == (500, 0, True)


@pytest.mark.parametrize("text", ["", "Zwölf\nEier \N{EGG}", "\x00 and \ufffd", "a" * 100_000])
async def test_writing_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    written = Written(text, (5, 0, 2**31), True, prompt_tokens=9, cached_tokens=3)
    for _ in range(2):  # the second time from the file
        store = ReadStore(tmp_path / "reads.sqlite")
        await store.put_writing(key(1), written)
        assert await store.find_writing(key(1)) == replace(written, cached_tokens=0, stored=True)
        assert await store.find_read(key(1)) is None
        await store.close()


async def test_reads_outlive_the_store_that_took_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "reads.sqlite"
    store = ReadStore(path)
    await store.put_read(key(1), answer(-0.25, -1.5))
    await store.close()
    again = ReadStore(path)
    found = await again.find_read(key(1))
    assert found is not None
    assert found.logprobs == (-0.25, -1.5)
    stats = await again.stats()
    assert (stats.reads, stats.writings, stats.bytes) == (1, 0, path.stat().st_size)
    await again.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]  # the log was folded in


async def test_a_temporary_store_forgets_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    for _ in range(2):
        store = ReadStore(None)
        assert await store.find_read(key(1)) is None
        await store.put_read(key(1), answer(-0.5))
        assert (await store.stats()).reads == 1
        await store.close()
    assert list(tmp_path.iterdir()) == []


async def test_ten_thousand_puts_share_a_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    transact = store_module._Worker._transact

    def counted(worker: store_module._Worker, batch: list[object]) -> None:
        batches.append(len(batch))
        transact(worker, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module._Worker, "_transact", counted)
    store = ReadStore(tmp_path / "reads.sqlite")
    await asyncio.gather(*(store.put_read(key(i), answer(-float(i))) for i in range(10_000)))
    assert sum(batches) == 10_000
    assert len(batches) < 100
    assert (await store.stats()).reads == 10_000
    await store.close()


async def test_closing_commits_what_was_put_and_a_closed_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = ReadStore(path)
    puts = [asyncio.create_task(store.put_read(key(i), answer(-1.0))) for i in range(100)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.gather(*puts)
    with pytest.raises(StoreError, match=r"reads\.sqlite.*closed"):
        await store.find_read(key(1))
    again = ReadStore(path)
    assert (await again.stats()).reads == 100
    await again.close()


async def test_a_put_is_carried_out_though_its_caller_went_away(tmp_path: Path) -> None:
    store = ReadStore(tmp_path / "reads.sqlite")
    put = asyncio.create_task(store.put_read(key(1), answer(-1.0)))
    await asyncio.sleep(0)
    put.cancel()
    await store.close()
    again = ReadStore(tmp_path / "reads.sqlite")
    assert await again.find_read(key(1)) is not None
    await again.close()


# Sharing and surviving


async def test_of_two_answers_to_one_read_the_first_stands(tmp_path: Path) -> None:
    """Two processes may compute the same read at once, and batches differ in their last bits."""
    mine, theirs = (ReadStore(tmp_path / "reads.sqlite") for _ in range(2))
    first = await mine.put_read(key(1), answer(-0.5, -0.9))
    second = await theirs.put_read(key(1), answer(-0.5001, -0.9001, cached_tokens=32))
    assert first == answer(-0.5, -0.9)
    assert second == answer(-0.5, -0.9, cached_tokens=32)  # computed, but answered as it is kept
    written = Written("ours", (1, 2), True, 9, 0)
    await mine.put_writing(key(1), written)
    assert await theirs.put_writing(key(1), replace(written, text="other")) == written
    await mine.close()
    await theirs.close()


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    script = """
        import asyncio, sys
        from pathlib import Path
        from judge_service.engine import LabelLogprobs
        from judge_service.store import ReadStore

        async def main():
            store = ReadStore(Path(sys.argv[1]))
            for i in range(0, 400, 2):
                await store.put_read(i.to_bytes(32, "big"), LabelLogprobs((-float(i),), 1, 0))
            await store.close()

        asyncio.run(main())
    """
    store = ReadStore(path)
    with child(script, str(path)) as other:
        for i in range(1, 400, 2):
            await store.put_read(key(i), answer(-float(i)))
    assert other.returncode == 0
    found = [await store.find_read(key(i)) for i in range(400)]
    assert [f.logprobs[0] for f in found if f] == [-float(i) for i in range(400)]
    await store.close()


async def test_nothing_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    script = """
        import asyncio, sys
        from pathlib import Path
        from judge_service.engine import LabelLogprobs
        from judge_service.store import ReadStore

        async def main():
            store = ReadStore(Path(sys.argv[1]))

            async def put(i):
                await store.put_read(i.to_bytes(32, "big"), LabelLogprobs((-i / 7,), i, 0))
                print(i, flush=True)

            for start in range(int(sys.argv[2]), 10**6, 25):
                await asyncio.gather(*(put(i) for i in range(start, start + 25)))

        asyncio.run(main())
    """
    acknowledged: list[int] = []
    for lines in (1, 260, 611):
        start = len(acknowledged) and max(acknowledged) + 1
        with child(script, str(path), str(start)) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline() for _ in range(lines)]
            os.kill(writer.pid, signal.SIGKILL)
            told += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged += [int(line) for line in told if line.endswith("\n")]
    store = ReadStore(path)
    found = await asyncio.gather(*(store.find_read(key(i)) for i in acknowledged))
    assert [f and f.logprobs for f in found] == [(-i / 7,) for i in acknowledged]
    await store.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process that is writing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_a_lookup_does_not_wait_for_a_commit(tmp_path: Path) -> None:
    store = ReadStore(tmp_path / "reads.sqlite")
    await store.put_read(key(1), answer(-1.0))
    with locked(tmp_path / "reads.sqlite"):
        put = asyncio.create_task(store.put_read(key(2), answer(-2.0)))
        assert await store.find_read(key(1)) is not None
        assert await store.find_read(key(2)) is None
        assert not put.done()
    await put
    assert await store.find_read(key(2)) is not None
    await store.close()


# Saying no


async def test_a_lock_that_is_never_released_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.05)
    store = ReadStore(tmp_path / "reads.sqlite")
    told = pytest.raises(StoreError, match=r"reads\.sqlite.*locked by another process")
    with locked(tmp_path / "reads.sqlite"), told:
        await store.put_read(key(1), answer(-1.0))
    await store.put_read(key(1), answer(-1.0))
    await store.close()


def test_a_file_that_is_no_store_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match=r"notes\.txt.*no store.*name another file"):
        ReadStore(path)
    assert path.read_text() == "Dear diary, " * 100


def test_another_program_s_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE urls (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"history\.sqlite.*another program"):
        ReadStore(path)
    assert path.read_bytes() == before


async def test_a_newer_store_is_told(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    await ReadStore(path).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version=3")
    with pytest.raises(StoreError, match=r"reads\.sqlite.*schema 3, this one knows 2"):
        ReadStore(path)


async def test_a_damaged_store_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    store = ReadStore(path)
    await asyncio.gather(*(store.put_read(key(i), answer(-1.0)) for i in range(2000)))
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:12288] + os.urandom(len(whole) - 12288))  # the schema is intact
    store = ReadStore(path)
    with pytest.raises(StoreError, match=r"reads\.sqlite.*damaged.*delete it"):
        await asyncio.gather(*(store.find_read(key(i)) for i in range(2000)))
    await store.close()


@pytest.mark.parametrize("place", ["/proc/reads.sqlite", "/proc/no/reads.sqlite", "{}", "{}/f/r"])
def test_a_place_where_no_file_can_be_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "f").write_text("a file, not a folder")
    path = place.format(tmp_path)
    with pytest.raises(StoreError, match=path):
        ReadStore(Path(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
async def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    path = tmp_path / "reads.sqlite"
    await ReadStore(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"reads\.sqlite"):
            ReadStore(path)
    finally:
        tmp_path.chmod(0o700)


async def test_a_full_disk_is_told_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    store = ReadStore(tmp_path / "reads.sqlite")
    await store.put_read(key(0), answer(-1.0))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))  # no file may grow beyond
    try:
        puts = (store.put_read(key(i), answer(-float(i))) for i in range(1, 2000))
        found = await asyncio.gather(*puts, return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    refused = [i for i, result in enumerate(found, start=1) if isinstance(result, StoreError)]
    assert refused
    assert re.search(r"reads\.sqlite.*make room", str(found[refused[0] - 1]))
    assert (await store.stats()).reads == 2000 - len(refused)
    await asyncio.gather(*(store.put_read(key(i), answer(-float(i))) for i in refused))
    assert (await store.stats()).reads == 2000
    await store.close()
