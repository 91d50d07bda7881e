"""A revoked token admits no call and ends its streams. Over real sockets.

The timeouts only guard against hanging; nothing here is measured.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from judge_service.observability.metrics import ServerMetrics
from judge_service.security.tokens import Token, digest_of, new_token, to_entry
from judge_service.server.app import JudgeServer
from judge_service.server.lifecycle import reload as reloading
from judge_service.server.lifecycle.health import ALARMS_KEY
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.raw_http2 import call_without_window
from tests.support.service.serving import CHAT, one_principle, settings

CODES = grpc.StatusCode

STREAM = "/judge_service.v1.JudgeService/StreamJudgments"
PAIR = pb.ComparePairRequest(**CHAT, response_a="a", response_b="bb")
MINE, THEIRS = new_token(), new_token()


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_POLL_SECONDS", 0.05)


def entry(name: str, token: str, *scopes: str) -> str:
    held = frozenset(scopes or ("judge", "read"))
    return to_entry(Token(name=name, sha256=digest_of(token), scopes=held)) + "\n"


BOTH = entry("mine", MINE) + entry("theirs", THEIRS)


def bearing(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


class Guarded:
    """A server with a file of tokens, its page of metrics, and a channel to it."""

    def __init__(
        self, file: Path, server: JudgeServer, metrics: ServerMetrics, channel: Any
    ) -> None:
        self.file, self.server, self.metrics, self.channel = file, server, metrics, channel
        self.judge = pb_grpc.JudgeServiceStub(channel)

    async def code(self, token: str) -> grpc.StatusCode:
        """The status of a call made now."""
        try:
            await self.judge.ComparePair(PAIR, metadata=bearing(token))
        except grpc.aio.AioRpcError as refused:
            return refused.code()
        return CODES.OK

    async def stream(self, token: str) -> Any:
        """A stream that has had its first answer."""
        call = self.judge.StreamJudgments(metadata=bearing(token))
        assert (await call.read()).credits
        await judged(call, "first")
        return call

    async def alarms(self) -> str | None:
        call = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest())
        assert (await call).status == health_pb2.HealthCheckResponse.SERVING
        trailers = {key: value for key, value in await call.trailing_metadata()}
        return trailers.get(ALARMS_KEY)

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"rlaif_judge_{name}", labels)


async def judged(stream: Any, id: str) -> None:
    await stream.write(pb.StreamJudgmentsRequest(id=id, comparison=PAIR))
    answer = await stream.read()
    assert (answer.id, answer.HasField("judgment")) == (id, True)


async def ended(stream: Any) -> grpc.StatusCode:
    """How a stream ends to which its client sends nothing more."""
    async with asyncio.timeout(120):
        code: grpc.StatusCode = await stream.code()
    return code


@asynccontextmanager
async def started(folder: Path, engine: FakeEngine) -> AsyncIterator[Guarded]:
    file = folder / "tokens.yaml"
    file.write_text(BOTH)
    metrics = ServerMetrics()
    values = settings(constitutions=[one_principle(folder)], tokens=file)
    server = JudgeServer(values, engine, metrics)
    await server.start()
    await server.load()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Guarded(file, server, metrics, channel)
    finally:
        async with asyncio.timeout(60):
            await server.stop()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with started(tmp_path, FakeEngine()) as server:
        yield server


ROTATED = entry("mine", new_token()) + entry("theirs", THEIRS)
NARROWED = entry("mine", MINE, "read") + entry("theirs", THEIRS)
REVOKED = [
    (entry("theirs", THEIRS), CODES.UNAUTHENTICATED),
    (ROTATED, CODES.UNAUTHENTICATED),
    (NARROWED, CODES.PERMISSION_DENIED),
    (BOTH.replace("[judge, read]", "[judge, write]", 1), CODES.UNAUTHENTICATED),
    (BOTH + entry("twin", MINE), CODES.UNAUTHENTICATED),
]


@pytest.mark.parametrize(
    ("text", "code"), REVOKED, ids=["deleted", "rotated", "scope taken", "invalid now", "doubled"]
)
async def test_a_reload_ends_the_streams_of_a_revoked_token_and_no_others(
    guarded: Guarded, text: str, code: grpc.StatusCode
) -> None:
    mine, theirs = await guarded.stream(MINE), await guarded.stream(THEIRS)
    guarded.file.write_text(text)
    guarded.server.reload()
    assert await ended(mine) is code
    assert await guarded.code(MINE) is code
    await judged(theirs, "next")
    await theirs.done_writing()
    assert await theirs.read() is grpc.aio.EOF
    assert await guarded.code(THEIRS) is CODES.OK


async def test_a_stream_with_items_in_the_engine_ends_too_and_frees_it(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with started(tmp_path, engine) as guarded:
        mine, theirs = await guarded.stream(MINE), await guarded.stream(THEIRS)
        engine.latency_seconds = 60
        await mine.write(pb.StreamJudgmentsRequest(id="slow", comparison=PAIR))
        async with asyncio.timeout(120):
            while not engine.in_flight:
                await asyncio.sleep(0.01)
        guarded.file.write_text(entry("theirs", THEIRS))
        guarded.server.reload()
        assert await ended(mine) is CODES.UNAUTHENTICATED
        async with asyncio.timeout(120):
            while engine.in_flight:
                await asyncio.sleep(0.01)
        engine.latency_seconds = 0
        await judged(theirs, "next")
        done = {"method": "StreamJudgments", "code": "UNAUTHENTICATED", "caller": "mine"}
        assert guarded.counted("calls_total", **done) == 1


async def test_a_stream_of_another_service_ends_with_its_token(guarded: Guarded) -> None:
    operator = new_token()
    guarded.file.write_text(BOTH + entry("operator", operator, "admin"))
    guarded.server.reload()
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    call = stub.ServerReflectionInfo(metadata=bearing(operator))
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await call.read()).list_services_response.service
    guarded.file.write_text(BOTH)
    guarded.server.reload()
    assert await ended(call) is CODES.UNAUTHENTICATED


async def test_a_revoked_stream_whose_client_never_reads_delays_no_shutdown(
    guarded: Guarded,
) -> None:
    token = f"Bearer {MINE}"
    async with call_without_window(guarded.server.address, STREAM, authorization=token):
        theirs = await guarded.stream(THEIRS)
        guarded.file.write_text(entry("theirs", THEIRS))
        guarded.server.reload()
        await judged(theirs, "next")
        await until(lambda: guarded.counted("calls_in_progress") == 1)
        async with asyncio.timeout(60):
            await guarded.server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_text("# nobody\n")])
async def test_a_deleted_or_emptied_file_admits_nobody_without_a_signal(
    guarded: Guarded, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    mine, theirs = await guarded.stream(MINE), await guarded.stream(THEIRS)
    assert guarded.counted("token_entries", state="admitted") == 2
    change(guarded.file)
    assert await ended(mine) is await ended(theirs) is CODES.UNAUTHENTICATED
    assert await guarded.code(THEIRS) is CODES.UNAUTHENTICATED
    assert guarded.counted("token_entries", state="admitted") == 0
    assert await guarded.alarms() == "tokens-none"
    assert "nobody is admitted" in caplog.text
    guarded.file.write_text(BOTH)
    await until(lambda: guarded.counted("token_entries", state="admitted") == 2)
    assert await guarded.code(THEIRS) is CODES.OK
    assert await guarded.alarms() is None


async def test_a_token_revoked_while_the_engine_loads_is_never_admitted(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(BOTH)
    server = JudgeServer(settings(tokens=file), FakeEngine())
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.JudgeServiceStub(channel)
        info = pb.GetServerInfoRequest()
        assert (await stub.GetServerInfo(info, metadata=bearing(MINE))).state
        file.write_text(entry("theirs", THEIRS))
        codes = [CODES.OK]
        async with asyncio.timeout(60):
            while codes[-1] is CODES.OK:
                await asyncio.sleep(0.02)
                codes.append(await stub.GetServerInfo(info, metadata=bearing(MINE)).code())
        assert codes[-1] is CODES.UNAUTHENTICATED
    await server.stop()


async def test_a_bad_entry_is_named_and_counted_and_blocks_no_other_token(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = await guarded.stream(THEIRS)
    guarded.file.write_text(BOTH.replace("[judge, read]", "[jugde]", 1))
    guarded.server.reload()
    assert await guarded.code(MINE) is CODES.UNAUTHENTICATED
    await judged(theirs, "next")
    assert "entry 1 'mine': scopes must be" in caplog.text
    counts = {s: guarded.counted("token_entries", state=s) for s in ("admitted", "rejected")}
    assert counts == {"admitted": 1, "rejected": 1}
    assert await guarded.alarms() == "tokens-rejected"
    assert guarded.counted("tokens_stale") == 0


async def test_an_unusable_file_raises_alarms_and_keeps_streams_until_it_is_fixed(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    mine, theirs = await guarded.stream(MINE), await guarded.stream(THEIRS)
    guarded.file.write_text(BOTH + "- [\n")
    await until(lambda: guarded.counted("tokens_stale") == 1)
    for stream in (mine, theirs):
        await judged(stream, "next")
    assert await guarded.code(MINE) is CODES.OK
    assert await guarded.alarms() == "tokens-stale"
    errors = [r for r in caplog.records if "those read before stay in force" in r.getMessage()]
    assert [record.levelno for record in errors] == [logging.ERROR]
    guarded.file.write_text(entry("theirs", THEIRS))
    assert await ended(mine) is CODES.UNAUTHENTICATED
    await judged(theirs, "last")
    assert guarded.counted("tokens_stale") == 0
    assert await guarded.alarms() is None


async def test_an_unreadable_file_is_retried_and_logged_once(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = await guarded.stream(MINE)
    tried = []

    def failing(self: Path, encoding: str = "") -> str:
        tried.append(self)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", failing)
        guarded.file.write_bytes(entry("theirs", THEIRS).encode())
        await until(lambda: tried.count(guarded.file) >= 3)
        assert guarded.counted("tokens_stale") == 1
    assert await ended(mine) is CODES.UNAUTHENTICATED
    assert caplog.text.count("Too many open files") == 1
