"""Callers of the caching engine that leave: the others are answered, nothing runs in vain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge_service.engine import EngineError, LabelLogprobs
from judge_service.engines.caching import CachingEngine
from judge_service.store import open_store
from judge_service.store.base import StoreUnavailable
from tests.judge_service.engines.test_caching import (
    LABELS,
    MODEL,
    PROMPT,
    CountingEngine,
    logprobs,
    settle,
    until_reads,
)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=12))
@settings(max_examples=25)
def test_callers_cancelled_at_any_moment_affect_no_others(callers: list[tuple[int, int]]) -> None:
    """Each caller is (prompt, turn at which it is cancelled): during the lookup, during the
    computation, during the commit, or after it."""

    async def play() -> None:
        engine = CountingEngine()
        storing = CachingEngine(engine, open_store(None))
        tasks = [asyncio.create_task(storing.read([prompt], LABELS)) for prompt, _ in callers]
        for turn in range(13):
            for task, (_, leaves) in zip(tasks, callers, strict=True):
                if leaves == turn and turn < 12:  # 12: it is never cancelled
                    task.cancel()
            await asyncio.sleep(0.0001)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for answer, (prompt, leaves) in zip(answers, callers, strict=True):
            if isinstance(answer, LabelLogprobs):
                assert answer.logprobs == logprobs([prompt], LABELS)
            else:
                assert isinstance(answer, asyncio.CancelledError)
                assert leaves < 12
        for prompt in range(3):
            assert (await storing.read([prompt], LABELS)).logprobs == logprobs([prompt], LABELS)
        computed = sum(
            isinstance(answer, LabelLogprobs) and not answer.stored for answer in answers
        )
        assert computed <= len(engine.reads)
        assert storing._flights == {}
        await storing.close()

    asyncio.run(play())


async def test_when_one_of_two_callers_is_cancelled_the_other_is_answered_and_charged() -> None:
    engine = CountingEngine()
    engine.open.clear()
    storing = CachingEngine(engine, open_store(None))
    leaves, stays = (asyncio.create_task(storing.read(PROMPT, LABELS)) for _ in range(2))
    await until_reads(engine, 1)
    leaves.cancel()
    await settle()
    engine.open.set()
    assert not (await stays).stored
    assert (len(engine.reads), engine.aborted) == (1, 0)
    await storing.close()


async def test_when_the_last_caller_leaves_the_engine_s_request_is_aborted() -> None:
    engine = CountingEngine()
    engine.open.clear()
    storing = CachingEngine(engine, open_store(None))
    tasks = [asyncio.create_task(storing.read(PROMPT, LABELS)) for _ in range(2)]
    await until_reads(engine, 1)
    for task in tasks:
        task.cancel()
    await settle()
    assert engine.aborted == 1
    engine.open.set()
    assert not (await storing.read(PROMPT, LABELS)).stored  # nothing was kept: computed again
    assert len(engine.reads) == 2
    await storing.close()


async def test_a_caller_that_arrives_as_the_last_one_leaves_gets_its_own_computation() -> None:
    engine = CountingEngine()
    engine.open.clear()
    storing = CachingEngine(engine, open_store(None))
    leaves = asyncio.create_task(storing.read(PROMPT, LABELS))
    await until_reads(engine, 1)
    leaves.cancel()
    comes = asyncio.create_task(storing.read(PROMPT, LABELS))
    await settle()
    engine.open.set()
    assert (await comes).logprobs == logprobs(PROMPT, LABELS)
    await storing.close()


async def test_a_computed_read_is_kept_if_its_caller_leaves_during_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store(None)
    committing, commit, put_read = asyncio.Event(), asyncio.Event(), store.put_read

    async def slow_put(key: bytes, answer: LabelLogprobs) -> LabelLogprobs:
        committing.set()
        await commit.wait()
        return await put_read(key, answer)

    monkeypatch.setattr(store, "put_read", slow_put)
    engine = CountingEngine()
    storing = CachingEngine(engine, store)
    leaves = asyncio.create_task(storing.read(PROMPT, LABELS))
    await committing.wait()
    leaves.cancel()
    await settle()
    assert leaves.cancelled()
    comes = asyncio.create_task(storing.read(PROMPT, LABELS))
    await settle()
    commit.set()
    assert (await comes).logprobs == logprobs(PROMPT, LABELS)
    assert (await storing.read(PROMPT, LABELS)).stored
    assert (len(engine.reads), engine.aborted) == (1, 0)
    await storing.close()


async def test_closing_answers_the_callers_that_still_wait(tmp_path: Path) -> None:
    engine = CountingEngine()
    storing = CachingEngine(engine, open_store(tmp_path / "reads.sqlite"))
    await storing.start()
    assert (storing.alive, storing.identity, storing.max_context_tokens) == (True, MODEL, 4096)
    assert storing.tokenizer is engine.tokenizer
    engine.open.clear()
    waits = asyncio.create_task(storing.read(PROMPT, LABELS))
    await until_reads(engine, 1)
    await storing.close()
    await storing.close()
    assert not storing.alive
    with pytest.raises(EngineError, match="closed"):
        await waits
    with pytest.raises(StoreUnavailable):
        await storing.read(PROMPT, LABELS)
