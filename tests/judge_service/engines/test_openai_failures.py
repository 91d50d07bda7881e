"""The engine over an OpenAI-compatible server that fails: retries, losses, cancellations."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from judge_service.client.sync import AsyncJudgeClient, JudgeUnavailable
from judge_service.engine import EngineError
from judge_service.engines import http_client as upstream
from judge_service.engines import openai
from judge_service.engines.openai import OpenAIEngine
from judge_service.engines.tokenizer import HFTokenizer
from judge_service.engines.warmup import warmup_prompt
from judge_service.types import JudgeOptions, Order, Unjudged, UnjudgedReason
from tests.judge_service.engines.test_openai import KEY, _quick, engine_over, folder
from tests.support.service.model_server import (
    DROP,
    HANG,
    Reply,
    model_server,
)
from tests.support.service.serving import comparison, one_principle, serving

__all__ = ["_quick", "folder"]  # fixtures


async def until(state: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not state():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "replies",
    [
        [Reply(503), Reply(429)],
        [Reply(DROP), Reply(500)],
        [Reply(200, {}, "not json"), Reply(502, {}, "<html>")],
    ],
)
async def test_transient_failures_are_retried(folder: Path, replies: list[Reply]) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.replies = replies
        answer = await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert answer.logprobs == (-0.25, -1.75)
        assert fake.replies == []
        assert engine.alive


async def test_retry_after_is_honored(folder: Path) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.replies = [Reply(429, {"Retry-After": "1"})]
        clock = asyncio.get_running_loop().time
        began = clock()
        await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert clock() - began >= 1.0


async def test_a_refused_prompt_fails_alone_and_is_quoted_nowhere(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with engine_over(folder, key=KEY) as (engine, fake):
        fake.replies = [Reply(400)]
        with pytest.raises(EngineError, match=r"refused the prompt \(HTTP 400 Bad Request\)"):
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert engine.alive
        fake.replies = [Reply(503)] * 3
        with pytest.raises(EngineError, match="does not answer") as raised:
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert fake.keys == {f"Bearer {KEY}"}
    assert "CANARY" not in caplog.text + str(raised.value)
    assert KEY not in caplog.text


@pytest.mark.parametrize("replies", [[Reply(500)] * 3, [Reply(503), Reply(HANG)]])
async def test_a_prompt_that_makes_the_server_fail_fails_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replies: list[Reply]
) -> None:
    monkeypatch.setattr(upstream, "ANSWER_SECONDS", 0.5)
    async with model_server(HFTokenizer(folder)) as fake:
        engine = OpenAIEngine(fake.url, "judge", tokenizer=str(folder))
        async with (
            serving(engine, constitutions=[one_principle(tmp_path)]) as server,
            AsyncJudgeClient(server.address) as client,
        ):
            fake.replies = list(replies)
            options = JudgeOptions(min_label_mass=0.0, use_store=False, orders=(Order.AB,))
            async with asyncio.timeout(120):
                ((_, outcome),) = [
                    pair async for pair in client.stream([comparison("bad")], options=options)
                ]
            assert isinstance(outcome, Unjudged)
            assert outcome.reason is UnjudgedReason.ENGINE_FAILED
            assert "failed at the prompt" in outcome.detail
            assert fake.replies == []
            assert engine.alive
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))


async def test_a_server_that_fails_every_request_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "_POLL_SECONDS", 60.0)
    async with engine_over(folder) as (engine, fake):
        monkeypatch.setattr(fake, "_answer", lambda *_: Reply(500))
        with pytest.raises(EngineError, match="500"):
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert not engine.alive


@pytest.mark.parametrize("status", [401, 404])
async def test_a_revoked_key_or_a_removed_model_is_not_blamed_on_a_prompt(
    folder: Path, status: int
) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.replies = [Reply(status)]
        with pytest.raises(EngineError, match=str(status)):
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        assert not engine.alive
        await until(lambda: engine.alive)


async def test_a_cancelled_read_closes_its_connection(folder: Path) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.replies = [Reply(HANG)]
        task = asyncio.create_task(engine.read(*warmup_prompt(engine.tokenizer, "judge")))
        await until(lambda: not fake.replies)
        task.cancel()
        await until(lambda: fake.disconnects == 1)
        assert task.cancelled()
        await engine.read(*warmup_prompt(engine.tokenizer, "judge"))


async def test_closing_ends_the_requests_in_flight(folder: Path) -> None:
    async with engine_over(folder) as (engine, fake):
        fake.replies = [Reply(HANG)]
        task = asyncio.create_task(engine.read(*warmup_prompt(engine.tokenizer, "judge")))
        await until(lambda: not fake.replies)
        await engine.close()
        with pytest.raises(EngineError, match="closed on this side"):
            await task


async def test_concurrent_requests_stay_within_the_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "REQUESTS_AT_A_TIME", 3)
    async with engine_over(folder) as (engine, fake):
        question = warmup_prompt(engine.tokenizer, "judge")
        await asyncio.gather(*(engine.read(*question) for _ in range(12)))
        assert fake.max_concurrent in (2, 3)


async def test_reads_that_wait_for_a_retry_delay_no_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "REQUESTS_AT_A_TIME", 2)
    async with engine_over(folder) as (engine, fake):
        question = warmup_prompt(engine.tokenizer, "judge")
        fake.replies = [Reply(429, {"Retry-After": "20"})] * 2
        bulk = [asyncio.create_task(engine.read(*question, priority=1)) for _ in range(2)]
        await until(lambda: not fake.replies)
        async with asyncio.timeout(120):
            await engine.read(*question, priority=0)
        assert not any(task.done() for task in bulk)
        for task in bulk:
            task.cancel()
        await asyncio.wait(bulk)


async def test_a_lost_server_makes_calls_unavailable_and_health_not_serving_until_it_is_back(
    folder: Path, tmp_path: Path
) -> None:
    options = JudgeOptions(min_label_mass=0.0, use_store=False)
    comparison = ("Name a fruit", "An apple.", "A stone.", "", options)
    async with model_server(HFTokenizer(folder)) as fake:
        engine = OpenAIEngine(fake.url, "judge", tokenizer=str(folder))
        async with (
            serving(engine, constitutions=[one_principle(tmp_path)]) as server,
            AsyncJudgeClient(server.address) as client,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            health = health_pb2_grpc.HealthStub(channel)

            async def is_serving(wanted: bool) -> None:
                async with asyncio.timeout(120):
                    while True:
                        answer = await health.Check(health_pb2.HealthCheckRequest())
                        if (answer.status == health_pb2.HealthCheckResponse.SERVING) == wanted:
                            return
                        await asyncio.sleep(0.05)

            assert (await client.compare(*comparison)).verdict
            fake.replies = [Reply(503, {"Retry-After": "60"})] * 500
            with pytest.raises(JudgeUnavailable, match="out of reach"):
                await client.compare(*comparison)
            await is_serving(False)
            fake.replies = []
            await is_serving(True)
            assert (await client.compare(*comparison)).verdict


async def test_a_server_that_goes_away_is_noticed_without_a_call(folder: Path) -> None:
    tokenizer = HFTokenizer(folder)
    async with model_server(tokenizer) as fake:
        engine = OpenAIEngine(fake.url, "judge", tokenizer=str(folder))
        await engine.start()
        port = int(fake.url.rpartition(":")[2])
    await until(lambda: not engine.alive)
    async with model_server(tokenizer, port=port):
        await until(lambda: engine.alive)
    await until(lambda: not engine.alive)
    # The server at the address is now not the one that the receipts name.
    async with model_server(tokenizer, port=port, knows=frozenset()) as other:
        await until(lambda: other.requests > 10)  # several rounds of probes
        assert not engine.alive
    await engine.close()


@pytest.mark.parametrize(
    "odd", ["[]", '{"choices": []}', '{"choices": [{"prompt_token_ids": 7}]}', "[" * 100_000]
)
async def test_an_odd_answer_while_the_server_recovers_is_logged_and_ignored(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    async with engine_over(folder) as (engine, fake):
        original = fake._answer
        probes = 0

        def answer(path: str, headers: dict[str, str], content: bytes) -> Reply:
            nonlocal probes
            if content and isinstance(json.loads(content)["prompt"], str):
                probes += 1
                return Reply(200, {}, odd)
            return original(path, headers, content)

        monkeypatch.setattr(fake, "_answer", answer)
        fake.replies = [Reply(503)] * 3
        with pytest.raises(EngineError, match="503"):
            await engine.read(*warmup_prompt(engine.tokenizer, "judge"))
        await until(lambda: probes > 2)
        assert not engine.alive
        warnings = [line for line in caplog.messages if "not serving until" not in line]
        assert len(warnings) == 1
        monkeypatch.setattr(fake, "_answer", original)
        await until(lambda: engine.alive)
