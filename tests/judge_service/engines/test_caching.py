"""The caching engine: no read is computed twice, and every caller is answered."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution.schema import Constitution, Message, Principle, Trait
from judge_service.engine import EngineError, LabelLogprobs, Written
from judge_service.engines.caching import CachingEngine
from judge_service.judge.judge import Judge
from judge_service.status import Failure
from judge_service.store import open_store
from judge_service.store.base import StoreError, StoreUnavailable, read_key
from judge_service.types import Comparison, Judgment, ModelIdentity
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine, FakeTokenizer
from tests.support.service.serving import CHAT, serving

MODEL = ModelIdentity("qwen", "0" * 64, "1" * 64, "bfloat16", "vllm 0.32.0 cpu")
LABELS = (7, 8)
PROMPT = (1, 2, 3)


def logprobs(prompt_ids: Sequence[int], label_ids: Sequence[int]) -> tuple[float, ...]:
    return tuple(-sum(prompt_ids) / 7 - label for label in label_ids)


class CountingEngine:
    """Records its requests. It answers while `open` is set, which it is from the start."""

    def __init__(self, identity: ModelIdentity = MODEL) -> None:
        self.identity = identity
        self.tokenizer = FakeTokenizer()
        self.max_context_tokens = 4096
        self.alive = False
        self.open = asyncio.Event()
        self.open.set()
        self.reads: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []
        self.writings: list[tuple[tuple[int, ...], int, float, int]] = []
        self.aborted = 0
        self.fail = False
        self.scale = 1.0  # of the log-probabilities: nan or inf for a broken model
        self.written = Written("So be it.", (4, 5, 6), True, 3, 2)

    async def start(self) -> None:
        self.alive = True

    async def read(
        self, prompt_ids: Sequence[int], label_ids: Sequence[int], *, priority: int = 0, **_: bool
    ) -> LabelLogprobs:
        self.reads.append((tuple(prompt_ids), tuple(label_ids), priority))
        await self._work()
        values = tuple(self.scale * logprob for logprob in logprobs(prompt_ids, label_ids))
        return LabelLogprobs(values, len(prompt_ids), cached_tokens=2)

    async def write(
        self, prompt_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int, **_: int
    ) -> Written:
        self.writings.append((tuple(prompt_ids), max_tokens, temperature, seed))
        await self._work()
        return self.written

    async def close(self) -> None:
        self.alive = False

    async def _work(self) -> None:
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if self.fail:
            raise EngineError("scripted failure")


async def until_reads(engine: CountingEngine, reads: int) -> None:
    while len(engine.reads) < reads:
        await asyncio.sleep(0.001)


async def settle() -> None:
    """Let every task run as far as it gets."""
    for _ in range(5):
        await asyncio.sleep(0)


# Computed once


async def test_a_computed_read_is_answered_from_the_store() -> None:
    engine = CountingEngine()
    storing = CachingEngine(engine, open_store(None))
    first = await storing.read(PROMPT, LABELS, priority=1)
    second = await storing.read(list(PROMPT), list(LABELS))
    await storing.close()
    assert engine.reads == [(PROMPT, LABELS, 1)]
    assert first == LabelLogprobs(logprobs(PROMPT, LABELS), 3, cached_tokens=2, stored=False)
    assert second == LabelLogprobs(logprobs(PROMPT, LABELS), 3, cached_tokens=0, stored=True)


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    engines = [CountingEngine() for _ in range(3)]
    for engine in engines:
        storing = CachingEngine(engine, open_store(tmp_path / "reads.sqlite"))
        for prompt in ([1], [2], [3]):
            assert (await storing.read(prompt, LABELS)).logprobs == logprobs(prompt, LABELS)
        await storing.close()
    assert [len(engine.reads) for engine in engines] == [3, 0, 0]


async def test_identical_reads_in_flight_are_computed_once_and_charged_once() -> None:
    engine = CountingEngine()
    engine.open.clear()
    storing = CachingEngine(engine, open_store(None))
    tasks = [asyncio.create_task(storing.read(PROMPT, LABELS)) for _ in range(20)]
    await until_reads(engine, 1)
    tasks += [asyncio.create_task(storing.read(PROMPT, LABELS)) for _ in range(20)]
    await settle()
    engine.open.set()
    answers = await asyncio.gather(*tasks)
    await storing.close()
    assert len(engine.reads) == 1
    assert {answer.logprobs for answer in answers} == {logprobs(PROMPT, LABELS)}
    assert (
        sorted((answer.stored, answer.cached_tokens) for answer in answers)
        == [(False, 2)] + [(True, 0)] * 39
    )


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 5), max_size=8)), max_size=6))
@settings(max_examples=25)
def test_the_engine_computes_each_distinct_read_once(
    steps: list[tuple[bool, list[int]]],
) -> None:
    """Each step is (whether the server restarts first, prompts of reads that start together)."""

    async def play(path: Path) -> None:
        engine = CountingEngine()
        storing = CachingEngine(engine, open_store(path))
        all_answers: list[LabelLogprobs] = []
        for restart, prompts in steps:
            if restart:
                await storing.close()
                storing = CachingEngine(engine, open_store(path))
            answers = await asyncio.gather(*(storing.read([p], LABELS) for p in prompts))
            assert [a.logprobs for a in answers] == [logprobs([p], LABELS) for p in prompts]
            all_answers += answers
        await storing.close()
        distinct = {prompt for _, prompts in steps for prompt in prompts}
        assert sorted(prompt for (prompt,), _, _ in engine.reads) == sorted(distinct)
        assert sum(not answer.stored for answer in all_answers) == len(engine.reads)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder) / "reads.sqlite"))


@pytest.mark.parametrize("field", ["weights_sha256", "tokenizer_sha256", "dtype", "engine"])
async def test_another_model_computes_its_own_reads(tmp_path: Path, field: str) -> None:
    for identity in (MODEL, replace(MODEL, **{field: "other"})):
        engine = CountingEngine(identity)
        storing = CachingEngine(engine, open_store(tmp_path / "reads.sqlite"))
        await storing.read(PROMPT, LABELS)
        await storing.read(PROMPT, LABELS[::-1])
        await storing.close()
        assert len(engine.reads) == 2


async def test_without_the_store_a_read_is_neither_looked_up_nor_kept() -> None:
    engine = CountingEngine()
    storing = CachingEngine(engine, open_store(None))
    for use_store in (False, True, False):
        assert not (await storing.read(PROMPT, LABELS, use_store=use_store)).stored
        assert not (await storing.write(PROMPT, max_tokens=8, use_store=use_store)).stored
    await storing.close()
    assert (len(engine.reads), len(engine.writings)) == (3, 3)


def constitution(*compare_texts: str) -> Constitution:
    principles = (
        Principle(id=f"p{i}", trait="helpful", compare=text, critique="c", revise="r")
        for i, text in enumerate(compare_texts)
    )
    traits = {"helpful": Trait()}
    return Constitution(name="t", version="1.0.0", traits=traits, principles=tuple(principles))


async def test_after_an_edit_only_the_changed_principle_is_read() -> None:
    question = (Message(role="user", content="How long do I boil an egg?"),)
    pair = Comparison("1", question, "Eight minutes.", "No.")
    before = [f"Principle {i}." for i in range(16)]
    after = [*before[:15], "A better one."]
    engine = FakeEngine()
    storing = CachingEngine(engine, open_store(None))
    cost = []
    for texts in (before, before, after, after[::-1]):
        judgment = await Judge(storing).compare(pair, constitution(*texts))
        assert isinstance(judgment, Judgment)
        cost.append((judgment.usage.reads, judgment.usage.stored_reads))
    await storing.close()
    assert len(engine.prompts) == 34
    assert cost == [(32, 0), (0, 32), (2, 30), (0, 32)]


async def test_a_stored_read_of_other_labels_than_asked_is_computed_again() -> None:
    engine = CountingEngine()
    store = open_store(None)
    key = read_key(engine.identity, PROMPT, LABELS)
    await store.put_read(key, LabelLogprobs((-1.0,), 3, cached_tokens=0))
    storing = CachingEngine(engine, store)
    answers = [await storing.read(PROMPT, LABELS) for _ in range(2)]
    assert [answer.logprobs for answer in answers] == [logprobs(PROMPT, LABELS)] * 2
    assert [answer.stored for answer in answers] == [False, True]
    await storing.close()


# Cancelled callers


# Failures


async def test_a_failure_reaches_all_waiting_callers_and_nothing_is_kept() -> None:
    engine = CountingEngine()
    engine.open.clear()
    engine.fail = True
    storing = CachingEngine(engine, open_store(None))
    tasks = [asyncio.create_task(storing.read(PROMPT, LABELS)) for _ in range(3)]
    await until_reads(engine, 1)
    engine.open.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["scripted failure"] * 3
    engine.fail = False
    assert not (await storing.read(PROMPT, LABELS)).stored
    assert len(engine.reads) == 2
    await storing.close()


@pytest.mark.parametrize("scale", [math.nan, math.inf])
async def test_a_read_that_is_not_finite_is_answered_and_never_kept(scale: float) -> None:
    engine = CountingEngine()
    engine.scale = scale
    storing = CachingEngine(engine, open_store(None))
    sick = await storing.read(PROMPT, LABELS)
    assert not any(map(math.isfinite, sick.logprobs))
    engine.scale = 1.0
    healthy = await storing.read(PROMPT, LABELS)
    assert (healthy.logprobs, healthy.stored) == (logprobs(PROMPT, LABELS), False)
    await storing.close()


@pytest.mark.parametrize(("verb", "work"), [("find_read", "lookups"), ("put_read", "commits")])
async def test_a_failing_store_refuses_reads_and_only_the_log_has_the_cause_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, verb: str, work: str
) -> None:
    """Lookups still succeed while commits fail, so they do not end the failure."""
    store = open_store(None)
    storing = CachingEngine(CountingEngine(), store)

    async def full(*_: object) -> None:
        raise StoreError("/srv/canary.sqlite: the disk is full; make room")

    with monkeypatch.context() as failing:
        failing.setattr(store, verb, full)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="the server's log has the cause") as error:
                await storing.read(PROMPT, LABELS)
            assert "canary" not in str(error.value)
    for _ in range(2):
        await storing.read(PROMPT, LABELS)
    await storing.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{work} in the store fail; reads are refused: "
        "/srv/canary.sqlite: the disk is full; make room",
        f"{work} in the store work again",
    ]


@pytest.mark.parametrize("verb", ["find_read", "put_read"])
@pytest.mark.parametrize("failure", [StoreUnavailable, StoreError])
async def test_a_failing_store_makes_a_call_unavailable_with_a_retry_delay(
    monkeypatch: pytest.MonkeyPatch, verb: str, failure: type[StoreError]
) -> None:
    store = open_store(None)

    async def away(*_: object) -> None:
        raise failure("postgresql+psycopg://judge@canary/reads cannot be used")

    monkeypatch.setattr(store, verb, away)
    request = pb.ComparePairRequest(**CHAT, response_a="short", response_b="rather longer")
    async with (
        serving(CachingEngine(FakeEngine(), store)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await pb_grpc.JudgeServiceStub(channel).ComparePair(request)
    reported = Failure.from_rpc_error(error.value)
    assert (reported.code, reported.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert any(d.type_url.endswith("RetryInfo") for d in rpc_status.from_call(error.value).details)
    assert "canary" not in str(error.value)  # callers do not learn where the database is


# Writing


async def test_writing_is_answered_from_the_store_and_drawn_again_with_another_seed(
    tmp_path: Path,
) -> None:
    engine = CountingEngine()
    storing = CachingEngine(engine, open_store(tmp_path / "reads.sqlite"))
    sampled = {"max_tokens": 8, "temperature": 1.0}
    for seed in (1, 2, 1):
        first = await storing.write(PROMPT, **sampled, seed=seed)
    assert first == replace(engine.written, cached_tokens=0, stored=True)
    for seed in (1, 2):
        await storing.write(PROMPT, max_tokens=8, temperature=0.0, seed=seed)
    assert [(t, seed) for _, _, t, seed in engine.writings] == [(1.0, 1), (1.0, 2), (0.0, 1)]
    await storing.close()


@pytest.mark.parametrize(("tokens", "kept"), [(3, True), (8, False)])
async def test_writing_cut_short_by_the_context_is_not_kept(tokens: int, kept: bool) -> None:
    """Three tokens of at most `tokens`: with room for more, the context must have ended."""
    engine = CountingEngine()
    engine.written = replace(engine.written, complete=False)
    storing = CachingEngine(engine, open_store(None))
    await storing.write(PROMPT, max_tokens=tokens)
    assert (await storing.write(PROMPT, max_tokens=tokens)).stored is kept
    await storing.close()
