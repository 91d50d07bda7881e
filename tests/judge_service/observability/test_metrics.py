"""The metrics of a server, scraped over HTTP as Prometheus does."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from judge_service.client.sync import AsyncJudgeClient
from judge_service.engines.caching import CachingEngine
from judge_service.errors import JudgeRequestError, ServerStartError
from judge_service.observability.metrics import (
    MAX_CALLERS,
    NO_METRICS,
    OTHER_CALLERS,
    ServerMetrics,
    metrics_on,
)
from judge_service.observability.metrics_page import MOST_REQUESTS, PageServer
from judge_service.security.tokens import Token, digest_of, new_token, to_entry
from judge_service.server.app import JudgeServer
from judge_service.store import open_store
from judge_service.types import JudgeOptions, Order
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import comparison, one_principle, settings
from tests.support.waiting import until

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def watched(
    engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[tuple[JudgeServer, ServerMetrics]]:
    async with watching(engine, one_principle(tmp_path)) as server_and_metrics:
        yield server_and_metrics


@asynccontextmanager
async def watching(
    engine: FakeEngine, constitution: str, **values: Any
) -> AsyncIterator[tuple[JudgeServer, ServerMetrics]]:
    """A server as `rlaif serve` builds it, with its metrics on a free port."""
    values = {"constitutions": [constitution], "metrics_port": 0, **values}
    metrics = metrics_on("127.0.0.1", 0)
    assert isinstance(metrics, ServerMetrics)
    caching = CachingEngine(engine, open_store(None), metrics)
    server = JudgeServer(settings(**values), caching, metrics)
    await server.start()
    await server.load()
    try:
        yield server, metrics
    finally:
        await server.stop()


async def scrape(metrics: ServerMetrics) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://{metrics.address}/metrics", timeout=120) as page:
            return str(page.read().decode())

    return await asyncio.to_thread(get)


async def counted(metrics: ServerMetrics) -> Samples:
    return {
        (sample.name.removeprefix("rlaif_judge_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(await scrape(metrics))
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_calls_are_counted_by_method_code_and_caller(
    watched: tuple[JudgeServer, ServerMetrics],
) -> None:
    server, metrics = watched
    async with AsyncJudgeClient(server.address) as client:
        await client.compare("Name a fruit", "short", "rather longer")
        with pytest.raises(JudgeRequestError):
            await client.compare("Name a fruit", "a", "b", constitution="nonesuch")
    samples = await counted(metrics)
    ours = {"method": "ComparePair", "caller": "anonymous"}
    assert samples[key("calls_total", code="OK", **ours)] == 1
    assert samples[key("calls_total", code="INVALID_ARGUMENT", **ours)] == 1
    assert samples[key("call_seconds_count", method="ComparePair")] == 2
    assert samples[key("calls_in_progress")] == 0


async def test_a_repeated_read_counts_as_stored(
    watched: tuple[JudgeServer, ServerMetrics],
) -> None:
    server, metrics = watched
    async with AsyncJudgeClient(server.address) as client:
        first = await client.compare("Name a fruit", "short", "rather longer")
        await client.compare("Name a fruit", "short", "rather longer")
        await client.compare(
            "Name a fruit", "short", "rather longer", options=JudgeOptions(use_store=False)
        )
    samples = await counted(metrics)
    assert samples[key("reads_total", source="computed")] == 4
    assert samples[key("reads_total", source="stored")] == 2
    tokens = samples[key("prompt_tokens_total", kind="computed")]
    assert tokens == 2 * first.usage.prompt_tokens
    assert samples[key("prompt_tokens_total", kind="cached")] == 0


async def test_a_judgment_counts_its_verdict_consistency_order_gap_and_label_mass(
    watched: tuple[JudgeServer, ServerMetrics],
) -> None:
    server, metrics = watched
    async with AsyncJudgeClient(server.address) as client:
        await client.compare("Name a fruit", "short", "rather longer")  # B in both orders
        await client.compare("Name a fruit", "same", "five")  # a tie: 0.5 in both
        one_order = JudgeOptions(orders=(Order.AB,))
        await client.compare("Name a fruit", "rather longer", "short", options=one_order)
        await client.compare("Name a fruit", " ", "short")
    samples = await counted(metrics)
    assert samples[key("verdicts_total", verdict="A")] == 1
    assert samples[key("verdicts_total", verdict="B")] == 1
    assert samples[key("abstentions_total", reason="empty_response")] == 1
    consistent = samples[key("position_checks_total", consistent="yes")]
    inconsistent = samples.get(key("position_checks_total", consistent="no"), 0)
    assert consistent + inconsistent == 2, "one order alone cannot be checked"
    assert samples[key("order_gap_count")] == 2
    assert samples[key("label_mass_count")] == 5
    assert samples[key("label_mass_sum")] == pytest.approx(5 * 0.99, abs=0.001)


async def test_void_reads_count_in_the_label_mass_too(
    engine: FakeEngine, watched: tuple[JudgeServer, ServerMetrics]
) -> None:
    server, metrics = watched
    async with AsyncJudgeClient(server.address) as client:
        engine.answer = lambda prompt: (-7.0, -7.0)
        await client.compare("Name a fruit", "short", "rather longer")
        engine.answer = lambda prompt: (math.nan, -7.0)
        await client.compare("Name a stone", "short", "rather longer")
    samples = await counted(metrics)
    assert samples[key("label_mass_count")] == 2
    assert samples[key("label_mass_sum")] == pytest.approx(4 * math.exp(-7.0))
    assert samples[key("reads_total", source="computed")] == 4
    assert samples[key("abstentions_total", reason="low_label_mass")] == 2


async def test_a_ranking_counts_each_of_its_pairs(
    watched: tuple[JudgeServer, ServerMetrics],
) -> None:
    server, metrics = watched
    async with AsyncJudgeClient(server.address) as client:
        await client.rank("Name a fruit", ["a", "bb", "ccc"])
    samples = await counted(metrics)
    assert sum(v for (name, _), v in samples.items() if name == "verdicts_total") == 3


async def test_gauges_show_calls_items_and_reads_in_flight(
    engine: FakeEngine, watched: tuple[JudgeServer, ServerMetrics]
) -> None:
    server, metrics = watched
    engine.latency_seconds = 3600
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = pb_grpc.JudgeServiceStub(channel).StreamJudgments()
        await stream.read()
        for name in ("1", "2", "3"):
            pair = comparison(name)
            request = pb.ComparePairRequest(
                conversation=[pb.Message(role=pb.ROLE_USER, content=pair.conversation[0].content)],
                response_a=pair.response_a,
                response_b=pair.response_b,
            )
            await stream.write(pb.StreamJudgmentsRequest(id=name, comparison=request))
        while engine.in_flight < 6:
            await asyncio.sleep(0.01)
        samples = await counted(metrics)
        assert samples[key("stream_items_in_flight")] == 3
        assert samples[key("engine_requests", work="read")] == 6
        assert samples[key("calls_in_progress")] == 1
        stream.cancel()
        while engine.in_flight:
            await asyncio.sleep(0.01)
    samples = await counted(metrics)
    assert samples[key("stream_items_in_flight")] == 0
    assert samples[key("engine_requests", work="read")] == 0
    assert samples[key("calls_in_progress")] == 0
    ended = key("calls_total", method="StreamJudgments", code="CANCELLED", caller="anonymous")
    assert samples[ended] == 1


async def test_the_page_shows_the_constitutions_the_engines_life_and_the_stores_size(
    engine: FakeEngine, watched: tuple[JudgeServer, ServerMetrics]
) -> None:
    _, metrics = watched
    samples = await counted(metrics)
    [served] = [dict(labels) for name, labels in samples if name == "constitution_info"]
    assert (served["name"], served["version"], len(served["sha256"])) == ("brief", "1.0.0", 12)
    assert samples[key("engine_alive")] == 1
    assert samples[key("reads_total", source="stored")] == 0, "there from the start, for rates"
    async with asyncio.timeout(120):  # the store is polled in the background
        while not samples[key("store_bytes")]:
            await asyncio.sleep(0.01)
            samples = await counted(metrics)
    assert samples[key("store_entries", kind="read")] == 0
    engine.die()
    assert (await counted(metrics))[key("engine_alive")] == 0


async def test_a_caller_is_counted_by_the_name_of_its_token(
    engine: FakeEngine, tmp_path: Path
) -> None:
    token = new_token()
    file = tmp_path / "tokens.yaml"
    file.write_text(to_entry(Token(name="trainer", sha256=digest_of(token), scopes=["judge"])))
    async with watching(engine, one_principle(tmp_path), tokens=file) as (server, metrics):
        async with AsyncJudgeClient(server.address, token=token) as client:
            await client.compare("Name a fruit", "short", "rather longer")
            with pytest.raises(JudgeRequestError, match="scope 'read'"):
                await client.server_info()
        async with AsyncJudgeClient(server.address, token=new_token()) as client:
            with pytest.raises(JudgeRequestError):
                await client.compare("Name a fruit", "short", "rather longer")
        samples = await counted(metrics)
    compare = {"method": "ComparePair"}
    assert samples[key("calls_total", code="OK", caller="trainer", **compare)] == 1
    assert samples[key("calls_total", code="UNAUTHENTICATED", caller="anonymous", **compare)] == 1
    denied = {"method": "GetServerInfo", "code": "PERMISSION_DENIED"}
    assert samples[key("calls_total", caller="trainer", **denied)] == 1


def test_callers_beyond_the_limit_share_a_label() -> None:
    metrics = ServerMetrics()
    for n in range(MAX_CALLERS + 5):
        metrics.call_began()
        metrics.call_ended("ComparePair", "OK", 0.1, f"caller-{n}")
    calls = next(f for f in metrics.registry.collect() if f.name == "rlaif_judge_calls")
    by_caller = {s.labels["caller"]: s.value for s in calls.samples}
    assert len(by_caller) == MAX_CALLERS + 1
    assert by_caller[OTHER_CALLERS] == 5


async def test_a_metrics_port_in_use_fails_the_start_and_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        metrics = metrics_on("127.0.0.1", port)
        server = JudgeServer(settings(metrics_port=port), FakeEngine(), metrics)
        with pytest.raises(ServerStartError, match=f"metrics on 127.0.0.1:{port}.*metrics_port"):
            await server.start()
        await server.stop()


async def test_the_page_closes_with_the_server(engine: FakeEngine, tmp_path: Path) -> None:
    async with watching(engine, one_principle(tmp_path)) as (_, metrics):
        host, port = metrics.address.split(":")
        assert "rlaif_judge_engine_alive" in await scrape(metrics)
    with socket.socket() as again:
        assert again.connect_ex((host, int(port))) != 0


async def test_a_scraper_that_sends_a_byte_now_and_then_is_cut_off(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PageServer, "request_seconds", 0.5)
    async with watching(engine, one_principle(tmp_path)) as (_, metrics):
        host, port = metrics.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def send_forever() -> None:
            while True:
                writer.write(b"G")
                await writer.drain()
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(send_forever())
        async with asyncio.timeout(120):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        sending.cancel()
        writer.close()
        with suppress(asyncio.CancelledError, ConnectionError):
            await sending
        assert "rlaif_judge_engine_alive" in await scrape(metrics)


async def test_scrapers_that_send_nothing_occupy_a_bounded_number_of_threads(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with watching(engine, one_principle(tmp_path)) as (_, metrics):
        host, port = metrics.address.split(":")
        before = threading.active_count()
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(MOST_REQUESTS)]
        await until(lambda: threading.active_count() == before + MOST_REQUESTS)
        refused, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(120):
            assert await refused.read() == b"", "it is closed at once"
        assert threading.active_count() == before + MOST_REQUESTS
        for _, each in [*silent, (refused, writer)]:
            each.close()
        await until(lambda: threading.active_count() == before)
        assert "rlaif_judge_engine_alive" in await scrape(metrics)


def test_without_a_port_there_are_no_metrics() -> None:
    assert metrics_on("127.0.0.1", None) is NO_METRICS


async def test_the_page_of_docs_lists_every_metric_and_no_other(
    watched: tuple[JudgeServer, ServerMetrics],
) -> None:
    _, metrics = watched
    served = {
        (name, kind)
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", await scrape(metrics), re.M)
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == served
