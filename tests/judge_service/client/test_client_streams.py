"""Streams of the sync and async clients: order, room, bad items, and a server that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from judge_service.client.resumable_stream import ResumableStream
from judge_service.client.sync import (
    AsyncJudgeClient,
    JudgeClient,
    JudgeRequestError,
    JudgeUnavailable,
)
from judge_service.server.app import JudgeServer
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Order,
    Unjudged,
    UnjudgedReason,
)
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.judge_service.client.test_client import in_thread
from tests.support.fakes import FakeEngine, prefer_longer
from tests.support.service.serving import comparison, one_principle, serving, settings
from tests.support.waiting import until

ONE_READ = JudgeOptions(orders=(Order.AB,), interactive=False)


async def test_a_stream_answers_every_item_and_one_bad_item_does_not_end_it(
    tmp_path: Path,
) -> None:
    items = [comparison(str(n)) for n in range(100)]
    items[3] = Comparison("3", (Message(role="user", content=" "),), "a", "b")  # refused
    items[4] = comparison("4", "")  # nothing to judge
    items[5] = comparison("5", "\ud800")  # cannot be sent
    items[6] = comparison("6", "x" * 5_000_000)  # above the cap on messages
    items[7] = comparison("7", "word " * 9000)  # above the judge's context
    items[8] = comparison("0")  # an id in use
    async with serving(FakeEngine(), constitutions=[one_principle(tmp_path)]) as server:
        answers = await in_thread(server.address, lambda sync: list(sync.stream(items, "brief")))
        async with AsyncJudgeClient(server.address) as client:
            twins = [answer async for answer in client.stream(items, "brief")]
    assert len(answers) == len(twins) == 100
    twice = [outcome for id, outcome in answers if id == "0"]
    assert {type(outcome) for outcome in twice} == {Judgment, Unjudged}
    assert any("another comparison of the same id" in str(outcome) for outcome in twice)
    outcomes = dict(answers)
    assert set(outcomes) == set(dict(twins)) == {str(n) for n in range(100)} - {"8"}
    assert outcomes["3"] == Unjudged(
        UnjudgedReason.REFUSED,
        "conversation[0].content: empty; send the message that the responses answer",
    )
    assert outcomes["4"].reason is UnjudgedReason.EMPTY_RESPONSE
    assert outcomes["5"].reason is UnjudgedReason.REFUSED
    assert outcomes["6"].reason is outcomes["7"].reason is UnjudgedReason.TOO_LONG
    assert isinstance(outcomes["99"], Judgment)


async def test_a_stream_with_an_unknown_constitution_fails_at_once() -> None:
    async with serving(FakeEngine()) as server:

        def work(client: JudgeClient) -> None:
            with pytest.raises(JudgeRequestError, match="did you mean 'hhh'"):
                list(client.stream((comparison(str(n)) for n in range(1000)), "hhhh"))

        await in_thread(server.address, work)


def test_an_empty_stream_needs_no_server() -> None:
    with JudgeClient("127.0.0.1:1") as client:
        assert list(client.stream([])) == []


class SlowFirst(FakeEngine):
    """An engine whose first read waits until it is released; the others do not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.let_through = asyncio.Event()

    async def read(self, *args: Any, **more: Any) -> Any:
        if not self.prompts:
            self.prompts.append("the first")
            await self.let_through.wait()
        return await super().read(*args, **more)


async def test_a_stream_answers_items_as_they_finish_and_not_in_their_order(
    tmp_path: Path,
) -> None:
    engine, loop, ids = SlowFirst(), asyncio.get_running_loop(), []

    def collect(client: JudgeClient) -> None:
        for id, _ in client.stream([comparison(str(n)) for n in range(20)], options=ONE_READ):
            ids.append(id)
            if len(ids) == 19:
                loop.call_soon_threadsafe(engine.let_through.set)

    async with serving(engine, constitutions=[one_principle(tmp_path)]) as server:
        async with asyncio.timeout(120):
            await in_thread(server.address, collect)
    assert ids[-1] == "0"
    assert sorted(map(int, ids)) == list(range(20))


async def test_a_client_takes_no_more_items_than_the_server_has_room_for(tmp_path: Path) -> None:
    engine = FakeEngine(latency_seconds=0.005)
    constitution = one_principle(tmp_path)
    async with serving(engine, constitutions=[constitution], max_stream_in_flight=5) as server:
        taken, most = 0, 0

        def items() -> Iterator[Comparison]:
            nonlocal taken
            for n in range(100):
                taken += 1
                yield comparison(str(n))

        def work(client: JudgeClient) -> None:
            nonlocal most
            for done, _ in enumerate(client.stream(items(), options=ONE_READ)):
                most = max(most, taken - done)

        await in_thread(server.address, work)
    assert taken == 100
    assert most <= 6  # 5 in flight in the server, and the one just answered
    assert engine.peak_in_flight <= 5


async def test_a_server_takes_no_more_items_than_its_bound_whatever_the_client_sends(
    tmp_path: Path,
) -> None:
    import grpc

    engine = FakeEngine(latency_seconds=0.002)
    constitution = one_principle(tmp_path)
    async with (
        serving(engine, constitutions=[constitution], max_stream_in_flight=4) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = pb_grpc.JudgeServiceStub(channel).StreamJudgments()
        opened = await call.read()
        assert (opened.id, opened.credits) == ("", 4)
        for n in range(60):
            pair = pb.ComparePairRequest(
                conversation=[pb.Message(role=pb.ROLE_USER, content=str(n))],
                response_a="a",
                response_b="bb",
            )
            await call.write(pb.StreamJudgmentsRequest(id=str(n), comparison=pair))
        await call.done_writing()
        responses = [await call.read() for _ in range(60)]
        assert await call.read() is grpc.aio.EOF
    assert {r.id for r in responses} == {str(n) for n in range(60)}
    assert all(r.credits == 1 and r.HasField("judgment") for r in responses)
    assert [r.progress.answered for r in responses] == list(range(1, 61))
    assert engine.peak_in_flight <= 8  # 4 items, both orders


async def test_a_comparison_the_engine_could_not_answer_is_unjudged(tmp_path: Path) -> None:
    engine = FakeEngine(fail_after=10)
    async with serving(engine, constitutions=[one_principle(tmp_path)]) as server:
        items = [comparison(str(n)) for n in range(30)]
        outcomes = await in_thread(
            server.address, lambda c: dict(c.stream(items, options=ONE_READ))
        )
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, Unjudged)]
    assert len(failed) == 20
    assert {outcome.reason for outcome in failed} == {UnjudgedReason.ENGINE_FAILED}


async def test_an_internal_error_of_one_item_leaves_the_others_alone(tmp_path: Path) -> None:
    def answer(prompt: str) -> Sequence[float]:
        if "question 7" in prompt:
            raise KeyError(prompt)
        return prefer_longer(prompt)

    async with serving(FakeEngine(answer), constitutions=[one_principle(tmp_path)]) as server:
        items = [comparison(str(n)) for n in range(10)]
        outcomes = await in_thread(server.address, lambda c: dict(c.stream(items)))
    assert isinstance(outcomes["7"], Unjudged)
    assert "internal error" in outcomes["7"].detail
    assert "question" not in outcomes["7"].detail
    assert sum(isinstance(outcome, Judgment) for outcome in outcomes.values()) == 9


@pytest.mark.parametrize("grace", [0.0, 5.0], ids=["killed", "drained"])
@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_a_stream_resumes_on_the_next_server_and_loses_and_repeats_nothing(
    tmp_path: Path, grace: float, kind: str
) -> None:
    constitution = one_principle(tmp_path)
    items = [comparison(str(n)) for n in range(300)]
    how: dict[str, Any] = {"constitutions": [constitution], "grace_seconds": grace}

    def answer(prompt: str) -> Sequence[float]:
        if len(engine.prompts) >= 100:
            engine.hold()  # some of the items are in flight when the server stops
        return prefer_longer(prompt)

    engine = FakeEngine(answer)
    first = JudgeServer(settings(**how), engine)
    await first.start()
    await first.load()
    port = int(first.address.rpartition(":")[2])
    ids: list[str] = []

    async def collect() -> None:
        async with AsyncJudgeClient(first.address) as client:
            async for id, _ in client.stream(items, options=ONE_READ):
                ids.append(id)

    def collect_sync(client: JudgeClient) -> None:
        for id, _ in client.stream(items, options=ONE_READ):
            ids.append(id)

    work = collect() if kind == "aio" else in_thread(first.address, collect_sync)
    collecting = asyncio.ensure_future(work)
    await until(lambda: len(ids) >= 50)
    stopping = asyncio.create_task(first.stop())
    await asyncio.sleep(0)
    if grace:
        engine.release()
    await stopping
    assert not collecting.done()
    async with serving(FakeEngine(), port=port, **how):
        await asyncio.wait_for(collecting, 120)
    assert len(ids) == 300
    assert set(ids) == {str(n) for n in range(300)}


async def test_a_stream_whose_server_stays_dead_raises_an_error_and_keeps_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, waits = FakeEngine(), []
    broken = ResumableStream.broken

    def counted(self: ResumableStream, error: Any) -> float:
        waits.append(broken(self, error))
        return waits[-1]

    monkeypatch.setattr(ResumableStream, "broken", counted)
    async with serving(engine, constitutions=[one_principle(tmp_path)]) as server:
        answered_ids: list[str] = []

        def work(client: JudgeClient) -> str:
            with pytest.raises(JudgeUnavailable) as gone:  # noqa: PT012
                for id, _ in client.stream([comparison(str(n)) for n in range(500)]):
                    answered_ids.append(id)
                    if len(answered_ids) == 100:
                        engine.die()
            return str(gone.value)

        message = await in_thread(server.address, work, reconnect_seconds=1.0)
    assert 1 <= len(waits) < 10
    assert sum(waits[:-1]) < 1.0, "within this time it tries again, and then no more"
    assert 100 <= len(answered_ids) < 500
    assert server.address in message
    assert f"{len(answered_ids)} comparisons of this stream were answered" in message
    assert "restart it" in message


async def test_leaving_a_stream_early_frees_the_engine(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with serving(engine, constitutions=[one_principle(tmp_path)]) as server:

        def work(client: JudgeClient) -> None:
            stream = client.stream([comparison(str(n)) for n in range(50)])
            next(stream)
            engine.latency_seconds = 3600
            stream.close()

        await in_thread(server.address, work)
        await until(lambda: not engine.in_flight)
