"""Quotas: the bucket with numbers worked by hand, and what a caller meets over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from judge_service.client.sync import AsyncJudgeClient, JudgeUnavailable
from judge_service.errors import Overloaded
from judge_service.security import quotas
from judge_service.security.quotas import Bucket, Quota, Quotas
from judge_service.security.tokens import Token, digest_of, to_entry
from judge_service.server.app import JudgeServer
from judge_service.types import Judgment
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, comparison, one_principle, serving
from tests.support.waiting import until

PAIR = pb.ComparePairRequest(**CHAT, response_a="a", response_b="bb")


def token(name: str = "t", **limits: Any) -> Token:
    return Token(name=name, sha256=digest_of(name), scopes=frozenset({"judge", "read"}), **limits)


class QuotaClock:
    """A clock that advances only while a caller sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False

    async def sleep(self, seconds: float) -> None:
        if self.stopped:
            await asyncio.get_running_loop().create_future()
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> QuotaClock:
    """The clock of every quota of a server that starts now."""
    clock = QuotaClock()
    on_it = partial(Quota, clock=lambda: clock.now, sleep=clock.sleep)
    monkeypatch.setattr(quotas, "Quota", on_it)
    return clock


# ---------------------------------------------------------------- the bucket, by hand


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_one_every_sixtieth() -> None:
    bucket = Bucket(6, now=100.0)  # six a minute: one every ten seconds
    assert [bucket.take(100.0) for _ in range(6)] == [0.0] * 6
    assert bucket.take(100.0) == pytest.approx(10.0)  # empty: a whole one is missing
    assert bucket.take(104.0) == pytest.approx(6.0)  # 0.4 gained, 0.6 missing
    assert bucket.take(110.0) == 0.0
    assert bucket.take(110.0) == pytest.approx(10.0)
    assert bucket.take(10_000.0) == 0.0  # full again, not fuller
    assert [bucket.take(10_000.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(10_000.0) == pytest.approx(10.0)


def test_a_caller_that_waits_as_long_as_reported_is_never_refused_again() -> None:
    for per_minute in (0.5, 1, 7, 60, 999.9):
        bucket, now = Bucket(per_minute, now=0.0), 0.0
        for _ in range(2000):
            if wait := bucket.take(now):
                now += wait
                assert bucket.take(now) == 0.0


def test_no_minute_admits_more_than_the_bucket_and_what_it_gains() -> None:
    bucket, taken = Bucket(30, now=0.0), []
    for tick in range(1800):  # three minutes, ten tries a second
        now = tick / 10
        if not bucket.take(now):
            taken.append(now)
    assert len([t for t in taken if t < 60]) in (59, 60)  # 30 held + 30 gained
    assert len([t for t in taken if 60 <= t < 120]) == 30
    assert len([t for t in taken if 120 <= t < 180]) == 30


def test_less_than_one_a_minute_still_lets_the_first_through() -> None:
    bucket = Bucket(0.5, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0) == pytest.approx(120.0)


def test_a_stream_leaves_one_request_for_a_single_call() -> None:
    bucket = Bucket(3, now=0.0)  # one every 20 s
    assert [bucket.take(0.0, leave=1) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(0.0, leave=1) == pytest.approx(20.0)
    assert bucket.take(0.0) == 0.0  # the single call
    assert bucket.take(0.0) == pytest.approx(20.0)
    assert bucket.take(0.0, leave=1) == pytest.approx(40.0)


def test_concurrent_call_slots_are_freed_however_the_calls_end() -> None:
    quota = Quota(token(max_concurrent=2), 8)
    with quota.occupied():
        with pytest.raises(ZeroDivisionError), quota.occupied():
            raise ZeroDivisionError
        with (
            quota.occupied(),
            pytest.raises(Overloaded, match="limit of 2 concurrent calls"),
            quota.occupied(),
        ):
            pass
    with quota.occupied(), quota.occupied():
        pass


def test_calls_in_progress_count_under_new_limits() -> None:
    quotas = Quotas(2)
    with quotas.call(token(requests_per_minute=9), "/x"):
        changed = token(requests_per_minute=8)
        with quotas.call(changed, "/x"), pytest.raises(Overloaded), quotas.call(changed, "/x"):
            pass
        with quotas.call(changed, "/x"):
            pass


def test_usage_survives_a_reload_and_new_limits_start_fresh() -> None:
    quotas = Quotas(8)
    one = token(requests_per_minute=1)

    def admit(who: Token) -> None:
        with quotas.call(who, "/x"):
            pass

    admit(one)
    with pytest.raises(Overloaded):
        admit(token(requests_per_minute=1))  # as after a reload of the same file
    admit(token("other", requests_per_minute=1))
    admit(token(requests_per_minute=2))


async def test_turns_come_in_order_and_at_the_rate() -> None:
    clock, done = QuotaClock(), []

    async def one(n: int) -> None:
        await quota.await_item()
        done.append((n, clock.now))

    quota = Quota(token(requests_per_minute=2), 8, lambda: clock.now, clock.sleep)
    await asyncio.gather(*(one(n) for n in range(4)))
    assert done == [(0, 0.0), (1, 30.0), (2, 60.0), (3, 90.0)]


# ---------------------------------------------------------------- over a socket


@asynccontextmanager
async def limited(
    folder: Path, engine: FakeEngine, grace_seconds: float = 0.2, **limits: Any
) -> AsyncIterator[JudgeServer]:
    """A server that knows the tokens "t", with these limits, and "free", without any."""
    file = folder / "tokens.yaml"
    file.write_text(f"{to_entry(token(**limits))}\n{to_entry(token('free'))}\n")
    given = {"tokens": file, "constitutions": [one_principle(folder)]}
    async with serving(engine, grace_seconds=grace_seconds, **given) as server:
        yield server


async def refused(call: Any) -> tuple[str, float]:
    """(reason, seconds to wait) of a call that is refused for its quota."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in rpc_status.from_call(raised.value).details:
        for message in (info, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    return info.reason, retry.retry_delay.ToMilliseconds() / 1000


async def test_a_request_over_the_limit_is_refused_with_the_real_wait(
    tmp_path: Path, clock: QuotaClock
) -> None:
    async with (
        limited(tmp_path, FakeEngine(), requests_per_minute=2) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        mine = [("authorization", "Bearer t")]
        for _ in range(2):
            await stub.ComparePair(PAIR, metadata=mine)
        clock.now = 10.0
        again = stub.ComparePair(PAIR, metadata=mine)
        assert await refused(again) == ("REQUESTS_PER_MINUTE", 20.0)
        for _ in range(20):  # polling the state is free, and so are others
            await stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=mine)
            await stub.ComparePair(PAIR, metadata=[("authorization", "Bearer free")])


async def test_concurrent_calls_are_limited_and_a_stream_counts_as_one(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with (
        limited(tmp_path, engine, max_concurrent=2) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        mine = [("authorization", "Bearer t")]
        stream = stub.StreamJudgments(metadata=mine)
        assert (await stream.read()).credits
        engine.latency_seconds = 3600
        call = stub.ComparePair(PAIR, metadata=mine)
        await until(lambda: engine.in_flight)
        assert await refused(stub.ComparePair(PAIR, metadata=mine)) == ("MAX_CONCURRENT", 1.0)
        engine.latency_seconds = 0
        for n in range(5):
            await stream.write(pb.StreamJudgmentsRequest(id=str(n), comparison=PAIR))
        assert {(await stream.read()).id for _ in range(5)} == set("01234")
        call.cancel()  # frees its place
        await until(lambda: not engine.in_flight)
        assert (await stub.ComparePair(PAIR, metadata=mine)).HasField("judgment")


async def test_a_bulk_stream_is_slowed_down_and_not_cut_while_single_calls_still_pass(
    tmp_path: Path, clock: QuotaClock
) -> None:
    async with (
        limited(tmp_path, FakeEngine(), requests_per_minute=600) as server,
        AsyncJudgeClient(server.address, token="t") as client,
    ):
        count = 610  # 599 are there for a stream, the others come at ten a second
        answered, single = 0, None
        async for _, outcome in client.stream(comparison(str(n)) for n in range(count)):
            assert isinstance(outcome, Judgment)
            answered += 1
            if answered == 600:
                single = await client.compare("x", "a", "bb")
        assert answered == count
        assert isinstance(single, Judgment)
        # 1.1 s for the eleven that were too many; the single call is a twelfth if it came before
        assert any(clock.now == pytest.approx(slept) for slept in (1.1, 1.2))


async def test_the_client_reports_a_quota_in_the_servers_words(
    tmp_path: Path, clock: QuotaClock
) -> None:
    async with (
        limited(tmp_path, FakeEngine(), requests_per_minute=1) as server,
        AsyncJudgeClient(server.address, token="t") as client,
    ):
        await client.compare("x", "a", "bb")
        with pytest.raises(
            JudgeUnavailable, match=r"requests per minute \(1\) are used up.* in 60 s"
        ):
            await client.compare("x", "a", "bb")


async def test_a_drain_does_not_wait_for_the_turns_of_a_slow_stream(
    tmp_path: Path, clock: QuotaClock
) -> None:
    clock.stopped = True  # so the second turn never comes
    async with (
        limited(tmp_path, FakeEngine(), grace_seconds=300, requests_per_minute=2) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.JudgeServiceStub(channel)
        stream = stub.StreamJudgments(metadata=[("authorization", "Bearer t")])
        await stream.read()
        for n in range(3):
            await stream.write(pb.StreamJudgmentsRequest(id=str(n), comparison=PAIR))
        assert (await stream.read()).HasField("judgment")
        async with asyncio.timeout(120):  # longer, if it waited for the turn or for the grace
            stopping = asyncio.ensure_future(server.stop())
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            await stopping
