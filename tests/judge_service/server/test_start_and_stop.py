"""How a server starts, becomes ready, loses its engine and stops; what it refuses to start with."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from judge_service.errors import EngineLost, ServerStartError
from judge_service.server import app
from judge_service.server.app import JudgeServer
from judge_service.server.incoming import IncomingRequest
from judge_service.server.interceptors import CallGuard
from judge_service.server.run import serve
from judge_service.settings import ServerSettings
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.judge_service.server.test_app import (
    JUDGE,
    SERVING,
    FakeContext,
    channel,
    engine,
    failure,
    health,
    never,
    request,
)
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle, serving, settings
from tests.support.waiting import until, until_answered

__all__ = ["channel", "engine"]  # fixtures

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ROOT = Path(__file__).resolve().parents[3]


class EngineElsewhere(FakeEngine):
    """Like an engine behind another server: unreachable for a while, then back."""

    @property
    def recovers(self) -> bool:
        return True

    def reach(self, *, alive: bool) -> None:
        self._alive = alive


def is_free(port: int) -> bool:
    """Whether no process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_health_is_not_serving_until_the_engine_is_warm_and_after_it_died() -> None:
    engine = FakeEngine()
    engine.hold()  # it stays cold for as long as the first calls take
    server = JudgeServer(settings(), engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        loading = asyncio.create_task(server.load())
        assert await health(channel) == NOT_SERVING
        assert await health(channel, JUDGE) == NOT_SERVING
        code, message, details = await failure(
            pb_grpc.JudgeServiceStub(channel).ComparePair(request())
        )
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "LOADING")
        assert details["RetryInfo"].retry_delay.seconds == 1
        engine.release()
        await loading
        assert await health(channel) == await health(channel, JUDGE) == SERVING
        engine.die()
        code, message, details = await failure(
            pb_grpc.JudgeServiceStub(channel).ComparePair(request())
        )
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")
        assert "restart" in message
        await until_answered(lambda: health(channel), NOT_SERVING)
        assert await health(channel, JUDGE) == NOT_SERVING
    await server.stop()


async def test_a_server_whose_engine_dies_ends_with_an_error_to_be_started_again() -> None:
    engine = FakeEngine()
    with pytest.raises(EngineLost, match="Start the server again"):
        await asyncio.wait_for(serve(settings(), engine, ready=lambda _: engine.die()), 120)


async def test_a_server_waits_for_an_engine_that_runs_elsewhere() -> None:
    engine = EngineElsewhere()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        for alive, expected in ((False, NOT_SERVING), (True, SERVING)):
            engine.reach(alive=alive)
            await until_answered(lambda: health(channel), expected)
        assert not server.engine_lost.is_set()
        await pb_grpc.JudgeServiceStub(channel).ComparePair(request())


async def test_a_comparison_lost_to_a_dying_engine_is_unavailable_and_not_a_judgment() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        engine.hold()
        call = pb_grpc.JudgeServiceStub(channel).ComparePair(request())
        await until(lambda: engine.in_flight)
        engine.die()
        engine.release()
        code, _, _ = await failure(call)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_busy_port_is_a_user_error_that_names_port_and_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = JudgeServer(settings(port=port), FakeEngine())
        with pytest.raises(ServerStartError, match=f"127.0.0.1:{port}: Address already.*--port"):
            await server.start()


async def test_two_servers_never_share_a_port() -> None:
    async with serving(FakeEngine()) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(ServerStartError, match="Address already in use"):
            await JudgeServer(settings(port=port), FakeEngine()).start()


async def test_stopping_lets_a_call_under_way_finish_and_sends_new_ones_elsewhere() -> None:
    engine = FakeEngine()
    server = JudgeServer(settings(grace_seconds=300), engine)
    await server.start()
    await server.load()
    engine.hold()
    port = int(server.address.rpartition(":")[2])
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.JudgeServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        first = stub.ComparePair(request())
        await until(lambda: engine.in_flight)
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await stub.ComparePair(request())
        await until(lambda: is_free(port))
        assert not stopping.done()
        async with serving(FakeEngine(), port=port):
            engine.release()
            assert (await first).judgment.verdict == pb.VERDICT_A
        async with asyncio.timeout(120):  # not the grace: an open watch delays no shutdown
            await stopping
    assert not engine.alive


async def test_an_idle_server_stops_without_waiting_for_any_of_its_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = 3600.0  # a stop that waits for one of these hangs
    for wait in ("_NOTICE_SECONDS", "_FLUSH_SECONDS", "_ALIVE_POLL_SECONDS"):
        monkeypatch.setattr(app, wait, long)
    server = JudgeServer(settings(grace_seconds=long), FakeEngine())
    await server.start()
    await server.load()
    async with grpc.aio.insecure_channel(server.address) as channel:  # connected, without a call
        assert await health(channel) == SERVING
        async with asyncio.timeout(120):
            await server.stop()


async def test_a_call_that_outlasts_the_grace_period_ends_as_unavailable() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        engine.hold()
        call = pb_grpc.JudgeServiceStub(channel).ComparePair(request())
        await until(lambda: engine.in_flight)
        stopping = asyncio.create_task(server.stop())
        code, _, details = await failure(call)
        assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping
        assert engine.in_flight == 0


async def test_a_call_that_arrives_while_the_server_drains_is_unavailable() -> None:
    guard, context = CallGuard(1), FakeContext(time_remaining=None)
    await guard.drain(0)
    await guard._call("/x/Y", never, IncomingRequest(context, 1), context)
    status = context.status()
    assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert "SHUTTING_DOWN" in str(status)


@pytest.mark.parametrize("how", ["SIGTERM", "stdin"])
def test_the_process_ends_on_sigterm_and_when_its_parent_is_gone(how: str, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from judge_service.server.run import serve\n"
        "from tests.support.fakes import FakeEngine\n"
        "from tests.support.service.serving import settings\n"
        f"wanted = settings(constitutions=({one_principle(tmp_path)!r},),\n"
        "                  exit_on_stdin_close=True)\n"
        "asyncio.run(serve(wanted, FakeEngine(), ready=lambda at: print(at, flush=True)))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"127.0.0.1:")
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.wait(120) == 0


def test_an_open_bind_is_refused_unless_insecure_is_spelled_out() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "judge.example"):
        with pytest.raises(ServerStartError, match="--insecure"):
            settings(host=host)
        assert not settings(host=host, insecure=True).with_reflection
    for host in ("127.0.0.1", "localhost", "::1"):
        assert settings(host=host).with_reflection


def test_a_wrong_setting_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ServerStartError, match="unknown setting 'prot'; did you mean 'port'"):
        ServerSettings(model="fake", prot=1)
    with pytest.raises(ServerStartError, match=r"setting 'port': .*65535"):
        ServerSettings(model="fake", port=70000)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ServerSettings.model_fields.values())


def test_a_constitution_with_too_many_principles_is_refused_at_the_start() -> None:
    with pytest.raises(ServerStartError, match="max_principles"):
        JudgeServer(settings(max_principles=1), FakeEngine())


def test_two_constitutions_of_one_name_are_refused_at_the_start() -> None:
    with pytest.raises(ServerStartError, match="two constitutions are called 'hhh'"):
        JudgeServer(settings(constitutions=("hhh", "hhh")), FakeEngine())
