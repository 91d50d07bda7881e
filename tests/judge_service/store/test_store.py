"""The contract of every store, tested on a file and on a PostgreSQL database.

The tests of the database are marked `integration`: they start a server
(tests/support/service/postgres.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service.engine import LabelLogprobs, Written
from judge_service.store import open_store
from judge_service.store.base import Store, StoreError, display_name, read_key, write_key
from judge_service.store.batcher import Batcher
from judge_service.store.encoding import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
from judge_service.store.maintenance import summarize
from judge_service.types import ModelIdentity

ROOT = Path(__file__).resolve().parents[3]
MODEL = ModelIdentity("qwen", "0" * 64, "1" * 64, "bfloat16", "vllm 0.32.0 cpu")
LOGPROBS = st.floats(max_value=0.0, allow_nan=False, allow_infinity=False)
WRITING = {"max_tokens": 64, "temperature": 1.0, "seed": 7}


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.integration)])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The location of a store that does not exist yet."""
    if request.param == "file":
        return str(tmp_path / "new" / "folder" / "reads.sqlite")
    return str(request.getfixturevalue("database"))


@pytest.fixture
async def store(location: str) -> AsyncIterator[Store]:
    store = open_store(location)
    yield store
    await store.close()


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(*logprobs: float, cached_tokens: int = 0) -> LabelLogprobs:
    return LabelLogprobs(logprobs, prompt_tokens=500, cached_tokens=cached_tokens)


def bits(values: tuple[float, ...]) -> bytes:
    """The bit patterns, in which 0.0 and -0.0 differ."""
    return struct.pack(f"{len(values)}d", *values)


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


# Keys


def test_the_key_of_a_read_is_the_digest_of_everything_that_decides_its_numbers() -> None:
    prompt_digest = hashlib.sha256(b"[[1,2,3],[7,8]]").hexdigest()
    numerics = {
        "dtype": "bfloat16",
        "engine": "vllm 0.32.0 cpu",
        "tokenizer_sha256": "1" * 64,
        "weights_sha256": "0" * 64,
    }
    content = json.dumps(["read", numerics, prompt_digest], separators=(",", ":")).encode()
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
    reads = [([1, 2], [3]), ([1], [2, 3]), ([1], [3, 2]), ([12], [3]), ([1, 2, 3], [])]
    assert len({read_key(MODEL, *ids) for ids in reads}) == len(reads)


def test_sampling_settings_count_and_greedy_writing_ignores_the_seed() -> None:
    def key_with(**changes: float) -> bytes:
        return write_key(MODEL, [1, 2], **{**WRITING, **changes})

    keys = [key_with(), key_with(max_tokens=65), key_with(temperature=0.5), key_with(seed=8)]
    assert len(set(keys)) == 4
    assert key_with(temperature=0.0, seed=1) == key_with(temperature=0, seed=2)
    assert key_with(temperature=0.0) not in keys


# Storing


@given(st.lists(LOGPROBS, max_size=9), st.lists(st.integers(0, 2**31), max_size=9))
def test_numbers_are_unpacked_to_the_bit(logprobs: list[float], ids: list[int]) -> None:
    assert bits(unpack_logprobs(pack_logprobs(logprobs))) == bits(tuple(logprobs))
    assert unpack_ids(pack_ids(ids)) == tuple(ids)


@pytest.mark.parametrize("logprobs", [(-0.25, -1.5), (0.0, -0.0), (-5e-324, -1.7e308), (-0.1,) * 9])
async def test_log_probabilities_come_back_to_the_bit(
    store: Store, logprobs: tuple[float, ...]
) -> None:
    assert await store.find_read(key(1)) is None
    await store.put_read(key(1), answer(*logprobs, cached_tokens=96))
    read = await store.find_read(key(1))
    assert read is not None
    assert bits(read.logprobs) == bits(logprobs)
    assert (read.prompt_tokens, read.cached_tokens, read.stored) == (500, 0, True)


@pytest.mark.parametrize("text", ["", "Zwölf\nEier \N{EGG}", "\x00 and \ufffd", "a" * 100_000])
async def test_writing_comes_back_as_it_was(location: str, text: str) -> None:
    written = Written(text, (5, 0, 2**31), True, prompt_tokens=9, cached_tokens=3)
    for _ in range(2):  # the second time from the store
        store = open_store(location)
        assert await store.put_writing(key(1), written) == written
        assert await store.find_writing(key(1)) == replace(written, cached_tokens=0, stored=True)
        assert await store.find_read(key(1)) is None
        await store.close()


async def test_reads_survive_closing_and_reopening(location: str) -> None:
    store = open_store(location)
    await store.put_read(key(1), answer(-0.25, -1.5))
    await store.close()
    again = open_store(location)
    read = await again.find_read(key(1))
    assert read is not None
    assert read.logprobs == (-0.25, -1.5)
    stats = await again.stats()
    assert (stats.reads, stats.writings) == (1, 0)
    assert stats.bytes > 0
    await again.close()


async def test_many_puts_share_a_few_transactions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    answer_batch = Batcher._answer

    def counted(batcher: Batcher[object, object], batch: list[object]) -> None:
        batches.append(len(batch))
        answer_batch(batcher, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Batcher, "_answer", counted)
    await asyncio.gather(*(store.put_read(key(i), answer(-float(i))) for i in range(5000)))
    assert sum(batches) == 5000
    assert len(batches) < 50
    monkeypatch.undo()
    reads = await asyncio.gather(*(store.find_read(key(i)) for i in range(5000)))
    assert [read.logprobs[0] for read in reads if read] == [-float(i) for i in range(5000)]
    assert (await store.stats()).reads == 5000


async def test_closing_commits_pending_puts_and_later_calls_raise_an_error(
    location: str,
) -> None:
    store = open_store(location)
    puts = [asyncio.create_task(store.put_read(key(i), answer(-1.0))) for i in range(100)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.gather(*puts)
    with pytest.raises(StoreError, match="is closed"):
        await store.find_read(key(1))
    with pytest.raises(StoreError, match="is closed"):
        await store.stats()
    again = open_store(location)
    assert (await again.stats()).reads == 100
    await again.close()


async def test_a_put_completes_after_its_caller_is_cancelled(location: str) -> None:
    store = open_store(location)
    put = asyncio.create_task(store.put_read(key(1), answer(-1.0)))
    await asyncio.sleep(0)
    put.cancel()
    await store.close()
    again = open_store(location)
    assert await again.find_read(key(1)) is not None
    await again.close()


# Concurrency and crashes


async def test_of_two_answers_to_one_read_the_first_is_kept(store: Store, location: str) -> None:
    """Two servers may compute the same read at once, and batches differ in their last bits."""
    theirs = open_store(location)
    first = await store.put_read(key(1), answer(-0.5, -0.9))
    second = await theirs.put_read(key(1), answer(-0.5001, -0.9001, cached_tokens=32))
    assert first == answer(-0.5, -0.9)
    assert second == answer(-0.5, -0.9, cached_tokens=32)  # computed, but answered as it is kept
    written = Written("ours", (1, 2), True, 9, 0)
    await store.put_writing(key(1), written)
    assert await theirs.put_writing(key(1), replace(written, text="other")) == written
    await theirs.close()


async def test_of_two_answers_in_one_batch_the_first_is_kept(store: Store) -> None:
    puts = [store.put_read(key(i // 2), answer(-float(i))) for i in range(100)]
    kept = await asyncio.gather(*puts)
    assert [read.logprobs[0] for read in kept] == [-float(i // 2 * 2) for i in range(100)]
    assert (await store.stats()).reads == 50


async def test_two_processes_that_put_the_same_keys_get_the_same_answers(location: str) -> None:
    """Both start at once, with no store there, and put each hundred in opposite order."""
    script = """
        import asyncio, sys
        from judge_service.engine import LabelLogprobs
        from judge_service.store import open_store

        async def main(location, mine, direction):
            store = open_store(location)

            async def put(i):
                answer = LabelLogprobs((-float(i), mine), 1, 0)
                kept = await store.put_read(i.to_bytes(32, "big"), answer)
                print(i, *kept.logprobs)

            for start in range(0, 2000, 100):
                keys = range(start, start + 100)[::direction]
                await asyncio.gather(*(put(i) for i in keys))
            await store.close()

        asyncio.run(main(sys.argv[1], -float(sys.argv[2]), int(sys.argv[3])))
    """
    both = [child(script, location, "1", "1"), child(script, location, "2", "-1")]
    outputs = [sorted(process.communicate()[0].splitlines()) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 2000
    store = open_store(location)
    assert (await store.stats()).reads == 2000
    await store.close()


async def test_nothing_acknowledged_is_lost_to_kill_9(location: str) -> None:
    script = """
        import asyncio, sys
        from judge_service.engine import LabelLogprobs
        from judge_service.store import open_store

        async def main():
            store = open_store(sys.argv[1])

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
        with child(script, location, str(start)) as writer:
            assert writer.stdout is not None
            printed = [writer.stdout.readline() for _ in range(lines)]
            os.kill(writer.pid, signal.SIGKILL)
            printed += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged += [int(line) for line in printed if line.endswith("\n")]
    store = open_store(location)
    reads = await asyncio.gather(*(store.find_read(key(i)) for i in acknowledged))
    assert [read and read.logprobs for read in reads] == [(-i / 7,) for i in acknowledged]
    await store.close()


# Locations


@pytest.mark.parametrize(
    ("location", "displayed"),
    [
        ("/var/reads.sqlite", "/var/reads.sqlite"),
        (None, "the temporary store"),
        ("postgresql+psycopg://judge@db:5432/reads", "postgresql+psycopg://judge@db:5432/reads"),
        ("postgresql+psycopg://judge:canary@db/reads", "postgresql+psycopg://judge@db/reads"),
        ("postgresql+psycopg://judge:can/?#ary@db/r", "postgresql+psycopg://judge@db/r"),
        ("postgresql+psycopg://judge:x@canary@db/reads", "postgresql+psycopg://…"),
        ("postgresql+psycopg://db/reads?password=canary", "postgresql+psycopg://db/reads"),
        ("postgresql+psycopg://db/reads?password=x@canary", "postgresql+psycopg://…"),
        ("postgresql+psycopg:///reads?host=/run/pg", "postgresql+psycopg:///reads"),
    ],
)
def test_a_location_is_displayed_without_its_password(location: str | None, displayed: str) -> None:
    assert display_name(location) == displayed


def test_a_database_without_its_packages_raises_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for use in (open_store, summarize):
        with pytest.raises(
            StoreError, match=r"db/r: .*extra `postgres`.*pip install .*\[postgres\]'"
        ):
            use("postgresql+psycopg://judge:canary@db/r")
