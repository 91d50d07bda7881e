"""Traces from the client to the engine, read from the SDK's in-memory exporter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `trace` is not installed")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from judge_service.client.sync import AsyncJudgeClient
from judge_service.engines.caching import CachingEngine
from judge_service.errors import JudgeRequestError, ServerStartError
from judge_service.observability.tracing import LONGEST_EXPORT_SECONDS, Tracing, outgoing, span
from judge_service.server.app import JudgeServer
from judge_service.store import open_store
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.fakes import FakeEngine
from tests.support.service.serving import CHAT, comparison, one_principle, serving, settings

RPC = "judge_service.v1.JudgeService"


@asynccontextmanager
async def traced(folder: Path) -> AsyncIterator[tuple[str, InMemorySpanExporter]]:
    """The address of a server whose spans stay in memory, and the spans."""
    spans = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(spans))
    engine = CachingEngine(FakeEngine(), open_store(None))
    server = JudgeServer(settings(constitutions=[one_principle(folder)]), engine, tracing=tracing)
    await server.start()
    await server.load()
    try:
        yield server.address, spans
    finally:
        await server.stop()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


async def test_a_trace_leads_from_the_client_to_the_engine(tmp_path: Path) -> None:
    caller = TracerProvider(shutdown_on_exit=False).get_tracer("a training run")
    async with traced(tmp_path) as (address, spans), AsyncJudgeClient(address) as client:
        with caller.start_as_current_span("label") as outer:
            await client.compare("Name a fruit", "short", "rather longer")
    [call], [compare] = named(spans, f"{RPC}/ComparePair"), named(spans, "judge.compare")
    reads = named(spans, "engine.read")
    assert call.parent is not None
    assert call.parent.span_id == outer.get_span_context().span_id
    assert compare.parent is not None
    assert compare.parent.span_id == call.context.span_id
    assert [read.parent.span_id for read in reads if read.parent] == [compare.context.span_id] * 2
    trace_id = outer.get_span_context().trace_id
    assert {one.context.trace_id for one in (call, compare, *reads)} == {trace_id}


async def test_spans_have_ids_codes_and_counts(tmp_path: Path) -> None:
    async with traced(tmp_path) as (address, spans), grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.JudgeServiceStub(channel)
        request = pb.ComparePairRequest(
            **CHAT, response_a="short", response_b="rather longer", request_id="r-1"
        )
        await stub.ComparePair(request)
        await stub.ComparePair(request)
    first, second = named(spans, f"{RPC}/ComparePair")
    assert first.attributes is not None
    assert dict(first.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": RPC,
        "rpc.method": "ComparePair",
        "rlaif.request_id": "r-1",
        "rlaif.code": "OK",
        "rlaif.caller": "anonymous",
    }
    computed, stored = named(spans, "judge.compare")
    assert computed.attributes is not None
    assert stored.attributes is not None
    assert (computed.attributes["rlaif.reads"], computed.attributes["rlaif.stored_reads"]) == (2, 0)
    assert (stored.attributes["rlaif.reads"], stored.attributes["rlaif.stored_reads"]) == (0, 2)
    reads = named(spans, "engine.read")
    assert len(reads) == 2, "stored reads never reach the engine"
    assert all(read.attributes and "rlaif.prompt_tokens" in read.attributes for read in reads)
    assert first.context.trace_id != second.context.trace_id


async def test_each_item_of_a_stream_is_a_child_span_of_its_call(tmp_path: Path) -> None:
    async with traced(tmp_path) as (address, spans), AsyncJudgeClient(address) as client:
        async for _ in client.stream([comparison("1"), comparison("2")]):
            pass
    [call] = named(spans, f"{RPC}/StreamJudgments")
    items = named(spans, "judge.compare")
    assert [item.parent.span_id for item in items if item.parent] == [call.context.span_id] * 2


async def test_the_span_of_a_failed_call_has_its_code_and_no_message(tmp_path: Path) -> None:
    async with traced(tmp_path) as (address, spans), AsyncJudgeClient(address) as client:
        with pytest.raises(JudgeRequestError):
            await client.compare("Name a fruit", "a", "b", constitution="canary")
    [call] = named(spans, f"{RPC}/ComparePair")
    assert call.attributes is not None
    assert call.attributes["rlaif.code"] == "INVALID_ARGUMENT"
    assert "canary" not in call.to_json()
    assert not call.events


async def test_spans_are_exported_before_the_server_has_stopped(tmp_path: Path) -> None:
    exporter = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    class Collector(exporter.TraceServiceServicer):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.names: list[str] = []

        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.names += [span.name for span in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = Collector()
    listener = grpc.server(ThreadPoolExecutor(1))
    exporter.add_TraceServiceServicer_to_server(collector, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    constitution = one_principle(tmp_path)
    endpoint = f"http://127.0.0.1:{port}"
    async with (
        serving(FakeEngine(), constitutions=[constitution], otlp_endpoint=endpoint) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        await client.compare("Name a fruit", "short", "rather longer")
    listener.stop(None).wait()
    assert set(collector.names) == {f"{RPC}/ComparePair", "judge.compare"}


async def test_an_unreachable_collector_fails_no_call_and_delays_the_stop_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporters = pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    limits: list[float] = []

    class Exporter(exporters.OTLPSpanExporter):  # type: ignore[misc,name-defined]
        def __init__(self, **keywords: Any) -> None:
            limits.append(keywords["timeout"])
            super().__init__(**keywords)

    monkeypatch.setattr(exporters, "OTLPSpanExporter", Exporter)
    values = {"constitutions": [one_principle(tmp_path)], "otlp_endpoint": "http://127.0.0.1:1"}
    async with (
        asyncio.timeout(300),
        serving(FakeEngine(), **values) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        await client.compare("Name a fruit", "short", "rather longer")
    assert limits == [LONGEST_EXPORT_SECONDS]
    assert LONGEST_EXPORT_SECONDS <= 5


def test_a_span_outside_a_traced_call_does_nothing() -> None:
    with span("judge.compare", reads=1) as step:
        step.set(reads=2)


def test_a_caller_without_a_span_sends_no_trace_context() -> None:
    assert outgoing() == ()


def test_a_client_does_not_load_opentelemetry() -> None:
    script = (
        "import sys; from judge_service.client.sync import JudgeClient; "
        "from judge_service.observability.tracing import outgoing; outgoing(); "
        "print([m for m in ('opentelemetry', 'prometheus_client') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr


def test_without_the_package_the_start_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ServerStartError, match=r"pip install .*\[trace\]'.*otlp_endpoint"):
        JudgeServer(settings(otlp_endpoint="http://127.0.0.1:4317"), FakeEngine())
