"""One stream over several servers: all work, the faster more, and one that dies loses nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from judge_service.client.balanced_stream import FIRST_IN_FLIGHT, BalancedStream
from judge_service.client.stream_requests import StreamRequests
from judge_service.client.sync import (
    AsyncJudgeClient,
    JudgeClient,
    JudgeRequestError,
    JudgeUnavailable,
)
from judge_service.server.app import JudgeServer
from judge_service.server_info import ServerInfo, ServerLimits, ServerState
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Order,
    Unjudged,
    UnjudgedReason,
)
from judge_service.v1 import judge_pb2 as pb
from tests.judge_service.client.test_client import in_thread
from tests.support.fakes import FakeEngine, prefer_longer
from tests.support.service.certificates import Authority
from tests.support.service.serving import (
    ONE_PRINCIPLE,
    comparison,
    one_principle,
    serving,
    settings,
)
from tests.support.waiting import until

ONE_READ = JudgeOptions(orders=(Order.AB,), interactive=False)
KINDS = pytest.mark.parametrize("kind", ["sync", "aio"])


class OtherWeights(FakeEngine):
    """A fake engine of another model."""

    identity = ModelIdentity("fake", "7" * 64, "1" * 64, "bfloat16", "fake")


@asynccontextmanager
async def both_serving(*engines: FakeEngine, **values: Any) -> AsyncIterator[list[JudgeServer]]:
    """A server over each engine."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(engine, **values)) for engine in engines]


def listed(*servers: JudgeServer) -> str:
    return ",".join(server.address for server in servers)


async def answers_of(
    kind: str,
    address: str,
    items: Sequence[Comparison],
    on_answer: Callable[[int], None] = lambda done: None,
    constitution: str = "",
    **how: Any,
) -> list[tuple[str, Judgment | Unjudged]]:
    """All answers of a stream. on_answer: called in this loop with the number so far."""
    loop, found = asyncio.get_running_loop(), list[tuple[str, Judgment | Unjudged]]()

    def collect(client: JudgeClient) -> None:
        for answer in client.stream(items, constitution, ONE_READ):
            found.append(answer)
            loop.call_soon_threadsafe(on_answer, len(found))

    if kind == "sync":
        await in_thread(address, collect, **how)
        return found
    async with AsyncJudgeClient(address, **how) as client:
        async for answer in client.stream(items, constitution, ONE_READ):
            found.append(answer)
            on_answer(len(found))
    return found


def pairs(n: int) -> list[Comparison]:
    return [comparison(str(number)) for number in range(n)]


def each_once(answers: list[tuple[str, Judgment | Unjudged]], n: int) -> bool:
    return Counter(id for id, _ in answers) == Counter(str(number) for number in range(n))


@KINDS
@pytest.mark.parametrize("n", [300, 6])
async def test_both_servers_work_also_on_a_short_list(tmp_path: Path, kind: str, n: int) -> None:
    one, other = FakeEngine(latency_seconds=0.001), FakeEngine(latency_seconds=0.001)
    async with both_serving(one, other, constitutions=[one_principle(tmp_path)]) as servers:
        answers = await answers_of(kind, listed(*servers), pairs(n))
    assert each_once(answers, n)
    assert all(isinstance(answer, Judgment) for _, answer in answers)
    assert len(one.prompts) + len(other.prompts) == n
    assert min(len(one.prompts), len(other.prompts)) >= n / 4


@KINDS
@pytest.mark.parametrize("room", [4, 64])
async def test_the_faster_server_answers_more(tmp_path: Path, kind: str, room: int) -> None:
    slow, fast = FakeEngine(), FakeEngine()
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": room}
    held = min(room, FIRST_IN_FLIGHT)

    def let_the_slow_one_answer(done: int) -> None:
        if done == 300 - held:
            slow.release()

    async with both_serving(slow, fast, **how) as servers:
        slow.hold()
        answers = await answers_of(kind, listed(*servers), pairs(300), let_the_slow_one_answer)
    assert each_once(answers, 300)
    assert (len(slow.prompts), len(fast.prompts)) == (held, 300 - held)


@KINDS
async def test_a_server_that_dies_hands_its_unanswered_pairs_to_the_other(
    tmp_path: Path, kind: str
) -> None:
    dying, other = FakeEngine(), FakeEngine(latency_seconds=0.001)
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": 8}
    stopping, held = list[asyncio.Task[None]](), asyncio.Event()

    def answer(prompt: str) -> Sequence[float]:
        if len(dying.prompts) >= 40:
            dying.hold()  # what it is asked from now on is in flight when it dies
            held.set()
        return prefer_longer(prompt)

    dying.answer = answer
    async with serving(other, **how) as stays:
        dies = JudgeServer(settings(**how, grace_seconds=0.0), dying)
        await dies.start()
        await dies.load()

        def kill(done: int) -> None:
            if held.is_set() and dying.in_flight and not stopping:
                stopping.append(asyncio.create_task(dies.stop()))

        answers = await answers_of(kind, listed(dies, stays), pairs(400), kill)
        await stopping[0]
    assert each_once(answers, 400)
    assert all(isinstance(answer, Judgment) for _, answer in answers)
    asked = Counter(dying.prompts + other.prompts)
    twice = {prompt for prompt, times in asked.items() if times > 1}
    assert max(asked.values()) <= 2
    assert 0 < len(twice) <= 8, "what was in flight at the dead one, and nothing else"


@KINDS
async def test_a_server_that_was_away_takes_part_once_it_is_there(
    tmp_path: Path, kind: str
) -> None:
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": 4}
    first, late = FakeEngine(), FakeEngine()
    async with serving(FakeEngine(), **how) as gone:
        away = gone.address
    port = int(away.rpartition(":")[2])
    async with serving(first, **how) as there, AsyncExitStack() as stack:

        async def start() -> None:
            await stack.enter_async_context(serving(late, port=port, **how))

        starting: list[asyncio.Task[None]] = []

        def on_answer(done: int) -> None:
            if done == 100:
                first.hold()
                starting.append(asyncio.create_task(start()))
            if len(late.prompts) > 20:
                first.release()

        answers = await answers_of(kind, f"{away},{there.address}", pairs(300), on_answer)
        await starting[0]
        assert each_once(answers, 300)
        assert len(late.prompts) > 20


@KINDS
async def test_servers_with_different_constitutions_are_refused_before_anything_is_asked(
    tmp_path: Path, kind: str
) -> None:
    mine, its = FakeEngine(), FakeEngine()
    rules = one_principle(tmp_path)
    other_rules = tmp_path / "other.yaml"
    other_rules.write_text(ONE_PRINCIPLE.replace("1.0.0", "1.0.1"), encoding="utf-8")
    async with (
        serving(mine, constitutions=[rules]) as one,
        serving(its, constitutions=[str(other_rules)]) as other,
    ):
        address = listed(one, other)
        with pytest.raises(
            JudgeRequestError, match="they differ in their constitutions, brief"
        ) as refused:
            await answers_of(kind, address, pairs(100))
        with pytest.raises(JudgeRequestError, match=r"brief 1\.0\.0 \w{12} against brief 1\.0\.1"):
            await in_thread(address, lambda client: client.server_info())
        async with AsyncJudgeClient(address) as client:
            with pytest.raises(JudgeRequestError, match="not the same judge"):
                await client.wait_until_ready(5)
    assert one.address in str(refused.value)
    assert other.address in str(refused.value)
    assert mine.prompts == its.prompts == []


async def test_servers_with_different_models_are_refused_and_the_error_says_how_they_differ(
    tmp_path: Path,
) -> None:
    engines = FakeEngine(), OtherWeights()
    async with both_serving(*engines, constitutions=[one_principle(tmp_path)]) as servers:
        found = "they differ in their model, weights_sha256 0{12} against 7{12}, dtype"
        with pytest.raises(JudgeRequestError, match=found):
            await answers_of("aio", listed(*servers), pairs(9))
    assert engines[0].prompts == engines[1].prompts == []


async def test_a_server_that_comes_late_as_another_judge_is_asked_nothing(tmp_path: Path) -> None:
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": 4}
    first, late = FakeEngine(), OtherWeights()
    async with serving(FakeEngine(), **how) as gone:
        away = gone.address
    async with serving(first, **how) as there, AsyncExitStack() as stack:
        starting: list[asyncio.Task[Any]] = []

        def on_answer(done: int) -> None:
            if done == 10:
                first.hold()
                server = serving(late, port=int(away.rpartition(":")[2]), **how)
                starting.append(asyncio.create_task(stack.enter_async_context(server)))

        with pytest.raises(JudgeRequestError, match="they differ in their model"):
            await answers_of("aio", f"{away},{there.address}", pairs(300), on_answer)
        await starting[0]
    assert late.prompts == []


@KINDS
async def test_when_all_servers_stay_dead_the_stream_ends_with_an_error(
    tmp_path: Path, kind: str
) -> None:
    engines = FakeEngine(), FakeEngine()
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": 4}

    def die(done: int) -> None:
        if done == 100:
            for engine in engines:
                engine.die()

    async with both_serving(*engines, **how) as servers:
        with pytest.raises(JudgeUnavailable, match="of this stream were answered") as gone:
            await answers_of(kind, listed(*servers), pairs(500), die, reconnect_seconds=0.5)
    for server in servers:
        assert f"by {server.address}" in str(gone.value)
    assert "tried to reconnect to 2 servers for 0.5 s" in str(gone.value)


def test_servers_that_are_not_there_are_an_error_that_names_one() -> None:
    address = "127.0.0.1:1,127.0.0.1:2"
    with JudgeClient(address, reconnect_seconds=0.2) as client:
        with pytest.raises(JudgeUnavailable, match=f"no judge answers at {address}"):
            client.server_info()
        with pytest.raises(JudgeUnavailable, match=r"no judge answers at 127\.0\.0\.1:[12] "):
            list(client.stream(pairs(3)))
        assert list(client.stream([])) == [], "an empty stream needs no server"


@KINDS
async def test_what_one_engine_fails_to_answer_is_asked_of_the_other_server(
    tmp_path: Path, kind: str
) -> None:
    failing, other = FakeEngine(fail_after=0), FakeEngine(latency_seconds=0.001)
    async with both_serving(failing, other, constitutions=[one_principle(tmp_path)]) as servers:
        answers = await answers_of(kind, listed(*servers), pairs(200))
    assert each_once(answers, 200)
    assert all(isinstance(answer, Judgment) for _, answer in answers)


async def test_what_both_engines_fail_to_answer_is_unjudged_after_two_tries(tmp_path: Path) -> None:
    engines = FakeEngine(fail_after=0), FakeEngine(fail_after=0)
    async with both_serving(*engines, constitutions=[one_principle(tmp_path)]) as servers:
        answers = await answers_of("sync", listed(*servers), pairs(50))
    assert each_once(answers, 50)
    assert {answer.reason for _, answer in answers if isinstance(answer, Unjudged)} == {
        UnjudgedReason.ENGINE_FAILED
    }
    asked = Counter(engines[0].prompts + engines[1].prompts)
    assert set(asked.values()) == {2}


async def test_a_server_whose_engine_is_dead_gets_nothing(tmp_path: Path) -> None:
    dead, alive = FakeEngine(), FakeEngine()
    async with both_serving(dead, alive, constitutions=[one_principle(tmp_path)]) as servers:
        dead.die()
        answers = await answers_of("sync", listed(*servers), pairs(30))
        async with AsyncJudgeClient(listed(*servers)) as client:
            assert (await client.server_info()).state is ServerState.SERVING
    assert each_once(answers, 30)
    assert dead.prompts == []


@KINDS
async def test_bad_items_are_answered_and_end_nothing(tmp_path: Path, kind: str) -> None:
    items = pairs(20)
    items[3] = Comparison("3", (Message(role="user", content=" "),), "a", "b")  # refused
    items[5] = comparison("5", "\ud800")  # cannot be sent
    items[6] = comparison("6", "x" * 5_000_000)  # above the cap on messages
    items[19] = comparison("19", "\ud800")  # the last
    engines = FakeEngine(), FakeEngine()
    async with both_serving(*engines, constitutions=[one_principle(tmp_path)]) as servers:
        outcomes = dict(await answers_of(kind, listed(*servers), items))
        only_bad = await answers_of(kind, listed(*servers), [items[5], items[19]])
    assert set(outcomes) == {str(n) for n in range(20)}
    reasons = {id: found.reason for id, found in outcomes.items() if isinstance(found, Unjudged)}
    refused, too_long = UnjudgedReason.REFUSED, UnjudgedReason.TOO_LONG
    assert reasons == {"3": refused, "5": refused, "6": too_long, "19": refused}
    assert [id for id, _ in only_bad] == ["5", "19"]


@KINDS
async def test_an_unknown_constitution_is_refused_at_once(kind: str) -> None:
    async with both_serving(FakeEngine(), FakeEngine()) as servers:
        with pytest.raises(JudgeRequestError, match="did you mean 'hhh'"):
            await answers_of(kind, listed(*servers), pairs(9), constitution="hhhh")


@KINDS
async def test_leaving_early_frees_both_engines(tmp_path: Path, kind: str) -> None:
    engines = FakeEngine(), FakeEngine()
    how: dict[str, Any] = {"constitutions": [one_principle(tmp_path)], "max_stream_in_flight": 8}
    async with both_serving(*engines, **how) as servers:

        def work(client: JudgeClient) -> None:
            stream = client.stream(pairs(100), options=ONE_READ)
            next(stream)
            for engine in engines:
                engine.latency_seconds = 3600
            stream.close()  # type: ignore[attr-defined]

        if kind == "sync":
            await in_thread(listed(*servers), work)
        else:
            async with AsyncJudgeClient(listed(*servers)) as client:
                stream = client.stream(pairs(100), options=ONE_READ)
                await anext(stream)
                for engine in engines:
                    engine.latency_seconds = 3600
                await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: not any(engine.in_flight for engine in engines))


async def test_under_tls_the_certificates_of_all_carry_the_name_of_the_first(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    engines = FakeEngine(latency_seconds=0.001), FakeEngine(latency_seconds=0.001)
    secure = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    rules = [one_principle(tmp_path)]
    async with both_serving(*engines, constitutions=rules, **secure) as servers:
        ca = authority.certificate
        answers = await answers_of("sync", listed(*servers), pairs(100), ca=ca)
    assert each_once(answers, 100)
    assert all(engine.prompts for engine in engines)


SERVES = ServerInfo(
    ServerState.SERVING, "0", None, "5", ServerLimits(4096, 2**22, 8, 64, 16, 8, 8), (), ()
)


def answered_by(speeds: Sequence[int], n: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of n pairs each server answers, and last the seconds that all take together.

    speeds: seconds of an answer of each server, which gives one at a time. No I/O, no real clock.
    """
    now, answers = 0, [0] * len(speeds)
    monkeypatch.setattr("judge_service.client.balanced_stream.time.monotonic", lambda: float(now))
    requests = StreamRequests(
        pairs(n), pb.ConstitutionRef(), JudgeOptions(), max_message_bytes=2**22
    )
    names = [f"server {place}" for place in range(len(speeds))]
    stream = BalancedStream(requests, names, reconnect_seconds=1)
    queues: list[list[str]] = [[] for _ in speeds]
    begun = [0] * len(speeds)  # when the answer that a server works on was begun
    assert stream.begin()
    for place in stream.due():
        stream.connected(place, SERVES)
        stream.exchange(place, pb.StreamJudgmentsResponse(credits=64))
    while stream.begin():
        for place, request in stream.to_send():
            begun[place] = begun[place] if queues[place] else now
            queues[place].append(request.id)
        now += 1
        for place, seconds in enumerate(speeds):
            if queues[place] and now - begun[place] >= seconds:
                response = pb.StreamJudgmentsResponse(id=queues[place].pop(0), credits=1)
                response.error.code = 3  # any answer that a server may give
                answers[place] += len(stream.exchange(place, response))
                begun[place] = now
    return [*answers, now]


def test_at_the_end_of_a_list_nobody_waits_for_a_slow_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, slow, seconds = answered_by([1, 10], 330, monkeypatch)
    assert fast + slow == 330
    assert 25 <= slow <= 31  # an eleventh is 30
    assert seconds <= 320  # at best 300; with 64 in flight at the slow one it takes 640
