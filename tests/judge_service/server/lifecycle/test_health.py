"""Health over real sockets: watchers that leave, never read or are too many, and the alarms.

The timeouts only guard against hanging; nothing here is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from judge_service.client.sync import AsyncJudgeClient
from judge_service.errors import JudgeUnavailable
from judge_service.server.app import JudgeServer
from judge_service.server.lifecycle.health import ALARMS_KEY, Health
from judge_service.server.lifecycle.open_requests import OpenRequests
from tests.support.fakes import FakeEngine
from tests.support.service.raw_http2 import call_without_window
from tests.support.service.serving import one_principle, serving, settings

JUDGE = "judge_service.v1.JudgeService"
WATCH = "/grpc.health.v1.Health/Watch"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health_request(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def status(call: Any) -> int:
    """The next status of a watch."""
    async with asyncio.timeout(120):
        return int((await call.read()).status)


async def until_watched(health: Health, watches: int) -> None:
    async with asyncio.timeout(120):
        while health.watches != watches:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def health_alone(**values: Any) -> AsyncIterator[tuple[Health, str]]:
    """A server of health and nothing else; (health, address)."""
    health = Health([JUDGE], **values)
    server = grpc.aio.server()
    health.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield health, f"127.0.0.1:{port}"
    finally:
        health.close()
        await server.stop(0.5)


async def test_health_is_not_serving_from_the_first_moment_and_knows_its_services() -> None:
    async with health_alone() as (health, address), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", JUDGE):
            assert (await stub.Check(health_request(service))).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_request("nonesuch"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_request("nonesuch"))
        assert await status(watch) == UNKNOWN
        health.report(serving=True)
        for service in ("", JUDGE):
            assert (await stub.Check(health_request(service))).status == SERVING


async def test_a_watcher_that_leaves_does_not_affect_the_others() -> None:
    async with health_alone() as (health, address), AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address)) for _ in range(2)
        ]
        leaving, staying = (
            health_pb2_grpc.HealthStub(channel).Watch(health_request(JUDGE)) for channel in channels
        )
        assert await status(leaving) == await status(staying) == NOT_SERVING
        leaving.cancel()
        await until_watched(health, 1)
        for serving_now, expected in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            health.report(serving=serving_now)
            assert await status(staying) == expected


async def test_watches_over_the_cap_are_refused_and_one_that_ends_makes_room() -> None:
    async with (
        health_alone(max_watches=2) as (health, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        first, second = stub.Watch(health_request()), stub.Watch(health_request(JUDGE))
        assert await status(first) == await status(second) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="too many health watches: 2 are") as refused:
            await stub.Watch(health_request()).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Check(health_request())).status == NOT_SERVING, "checks are not capped"
        first.cancel()
        await until_watched(health, 1)
        third = stub.Watch(health_request())
        assert await status(third) == NOT_SERVING


async def test_of_many_unfinished_requests_the_oldest_end_and_an_honest_one_is_answered() -> None:
    async with health_alone() as (health, address), grpc.aio.insecure_channel(address) as channel:
        health._requests = OpenRequests(most=2, seconds=3600.0, moment=0.0)
        unfinished = []
        for n in range(5):  # headers alone
            unfinished.append(channel.stream_unary("/grpc.health.v1.Health/Check")())
            async with asyncio.timeout(120):
                while health._requests.reading < min(n + 1, 2):
                    await asyncio.sleep(0.01)
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_request())).status == NOT_SERVING
        for call in unfinished[:4]:
            with pytest.raises(grpc.aio.AioRpcError, match="did not arrive in time") as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not unfinished[4].done()
        assert health._requests.reading == 1


async def test_bytes_that_are_no_health_request_are_refused() -> None:
    async with health_alone() as (_, address), grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be parsed") as refused:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_holds_no_long_request() -> None:
    async with health_alone() as (health, address), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for call in (stub.Check, stub.Watch):
            refused = call(health_request("x" * 1_000_000))
            assert await refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not health.watches
        assert await status(stub.Watch(health_request("x" * 1000))) == UNKNOWN


async def test_alarms_show_in_check_and_do_not_change_the_status() -> None:
    async with health_alone() as (health, address), grpc.aio.insecure_channel(address) as channel:
        health.report(serving=True)
        shown = []
        for alarms in ((), ("one", "two"), ()):
            health.show_alarms("tokens", *alarms)
            call = health_pb2_grpc.HealthStub(channel).Check(health_request())
            assert (await call).status == SERVING
            trailers = {key: value for key, value in await call.trailing_metadata()}
            shown.append(trailers.get(ALARMS_KEY))
        assert shown == [None, "one,two", None]


async def test_a_watcher_that_never_opens_its_window_delays_nothing() -> None:
    engine = FakeEngine()
    server = JudgeServer(settings(grace_seconds=0.2), engine)
    await server.start()
    async with (
        call_without_window(server.address, WATCH),
        call_without_window(server.address, WATCH),
        grpc.aio.insecure_channel(server.address) as channel,
        asyncio.timeout(60),
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_request())
        assert await status(watch) == NOT_SERVING
        assert server._health.watches == 3
        await server.load()
        assert await status(watch) == SERVING
        assert (await stub.Check(health_request(JUDGE))).status == SERVING
        engine.die()
        await server.engine_lost.wait()
        assert await status(watch) == NOT_SERVING
        await server.stop()
    assert not server._health.watches


async def test_a_watch_ends_cleanly_after_its_last_status_when_the_server_stops() -> None:
    async with (
        serving(FakeEngine()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        asyncio.timeout(60),
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_request())
        assert await status(watch) == SERVING
        stopping = asyncio.create_task(server.stop())
        assert await status(watch) == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
        await stopping


def client_of(servers: list[JudgeServer], number: int) -> AsyncJudgeClient:
    """A client with connections of its own: gRPC shares those of channels with equal options."""
    address = ",".join(server.address for server in servers)
    return AsyncJudgeClient(address, max_message_bytes=2**20 + number)


async def test_clients_of_loading_replicas_may_leave_and_all_work_once_warm(
    tmp_path: Path,
) -> None:
    constitution = one_principle(tmp_path)
    servers = [JudgeServer(settings(constitutions=[constitution]), FakeEngine()) for _ in range(2)]
    async with AsyncExitStack() as stack, asyncio.timeout(120):
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        staying = await stack.enter_async_context(client_of(servers, 1))
        async with client_of(servers, 2) as leaving:
            for client in (staying, leaving):
                with pytest.raises(JudgeUnavailable, match="unhealthy"):
                    await client.compare("x", "a", "bb")
            for server in servers:
                await until_watched(server._health, 2)
        for server in servers:
            await until_watched(server._health, 1)
        back = await stack.enter_async_context(client_of(servers, 3))
        for server in servers:
            await server.load()
        for client in (staying, back):
            await client.wait_until_ready(60)
            for n in range(5):
                assert (await client.compare("x", "a", f"b{n}")).prob_a is not None
