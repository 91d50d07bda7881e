"""The sync and async clients over a real socket, with a fake engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from constitution.errors import UserError
from judge_service.client.sync import (
    AsyncJudgeClient,
    JudgeClient,
    JudgeRequestError,
    JudgeUnavailable,
)
from judge_service.server.app import JudgeServer
from judge_service.server_info import ServerState
from judge_service.types import (
    Judgment,
    Unjudged,
    UnjudgedReason,
    Verdict,
)
from tests.support.fakes import FakeEngine
from tests.support.service.serving import serving, settings
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]


async def in_thread(address: str, work: Callable[[JudgeClient], Any], **how: Any) -> Any:
    """Run the work with a sync client in a thread, while this loop runs the server."""

    def run() -> Any:
        with JudgeClient(address, **how) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_the_sync_and_the_async_client_return_the_same() -> None:
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as client:
        pair = ("Name a fruit", "An apple.", "A stone, perhaps a gray one.")
        judgment = await client.compare(*pair, constitution="hhh")
        twin = await in_thread(server.address, lambda sync: sync.compare(*pair))
        assert isinstance(judgment, Judgment)
        assert isinstance(twin, Judgment)
        assert judgment.verdict is Verdict.B
        assert (judgment.votes, judgment.provenance) == (twin.votes, twin.provenance)

        ranking = await client.rank("Name a fruit", ["an", "apple is one", "a pear"])
        assert [c.index for c in ranking.candidates] == [1, 2, 0]
        assert (
            await in_thread(server.address, lambda s: s.rank("Name a fruit", ["an", "apple"]))
        ).candidates[0].index == 1

        info = await client.server_info()
        assert info == await in_thread(server.address, lambda sync: sync.server_info())
        assert info.state is ServerState.SERVING
        assert info.model is not None
        assert info.constitutions == await client.constitutions()
        constitution = await client.constitution()
        assert constitution.digest == info.constitutions[0].sha256
        assert (
            await in_thread(server.address, lambda s: s.constitution(constitution.digest))
            == constitution
        )
        problems = await client.validate_constitution("name: x\nversion 1\n", "mine.yaml")
        assert problems == await in_thread(
            server.address, lambda s: s.validate_constitution("name: x\nversion 1\n", "mine.yaml")
        )
        assert problems[0].line == 3
        assert str(problems[0]).startswith("mine.yaml:3:")


async def test_a_refused_request_is_a_user_error_that_names_the_field() -> None:
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as client:
        with pytest.raises(JudgeRequestError, match="did you mean 'hhh'") as refused:
            await client.compare("x", "a", "b", "hhhh")
        assert isinstance(refused.value, UserError)
        assert list(refused.value.fields) == ["constitution.name"]
        with pytest.raises(JudgeRequestError, match="send 2 to"):
            await client.rank("x", ["only one"])
        with pytest.raises(JudgeRequestError, match="cannot be sent"):
            await client.compare("x", "\ud800", "b")
        with pytest.raises(JudgeRequestError, match="too large"):
            await client.compare("x", "a" * 5_000_000, "b")
        with pytest.raises(JudgeRequestError, match="response_a"):
            await client.compare("x", "word " * 9000, "b")


async def test_an_empty_response_is_unjudged_and_not_an_error() -> None:
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as client:
        outcome = await client.compare("x", "", "b")
        assert isinstance(outcome, Unjudged)
        assert outcome.reason is UnjudgedReason.EMPTY_RESPONSE


def test_an_unreachable_address_raises_an_error_with_the_remedy() -> None:
    with JudgeClient("127.0.0.1:1") as client:
        with pytest.raises(JudgeUnavailable, match=r"127\.0\.0\.1:1 .*rlaif serve"):
            client.server_info()
        with pytest.raises(JudgeUnavailable, match="waited"):
            client.wait_until_ready(timeout=0.3)
    for address in ("nowhere", "host:port"):
        with pytest.raises(JudgeRequestError, match="not host:port"):
            JudgeClient(address)


async def test_waiting_ends_when_the_server_is_warm_and_reports_what_it_waits_for() -> None:
    engine, loop = FakeEngine(), asyncio.get_running_loop()
    engine.hold()
    server = JudgeServer(settings(), engine)
    await server.start()
    loading = asyncio.create_task(server.load())
    progress: list[str] = []

    def report(text: str, _: float) -> None:
        progress.append(text)
        loop.call_soon_threadsafe(engine.release)

    await in_thread(server.address, lambda client: client.wait_until_ready(120, report))
    assert "is still loading its model" in progress[0]
    await loading
    await server.stop()


async def test_waiting_for_a_server_whose_engine_died_ends_at_once() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, AsyncJudgeClient(server.address) as client:
        engine.die()
        with pytest.raises(JudgeUnavailable, match="engine died"):
            await client.wait_until_ready(60)


async def test_an_exceeded_deadline_raises_an_error() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, AsyncJudgeClient(server.address) as client:
        engine.hold()
        with pytest.raises(JudgeUnavailable, match="did not answer in time"):
            await client.compare("x", "a", "b", timeout=0.2)
        await until(lambda: not engine.in_flight)


async def test_a_proxy_in_the_environment_does_not_capture_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(FakeEngine()) as server, AsyncJudgeClient(server.address) as client:
        assert (await client.server_info(timeout=60)).state is ServerState.SERVING


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, judge_service.client.sync\n"
        "heavy = {'torch', 'vllm', 'transformers', 'numpy', 'datasets', 'grpc_status',"
        " 'judge_service.judge.judge', 'judge_service.server.app'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "[]", process.stdout + process.stderr
