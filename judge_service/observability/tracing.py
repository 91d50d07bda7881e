"""OpenTelemetry traces from the client to the engine (extra `trace`).

    client's span ── traceparent ──► rpc ──► judge.compare ──► engine.read …

A client passes its current span on as W3C trace context in the call's metadata. A server with an
`otlp_endpoint` opens a span for the call; code inside it opens child spans with `span`, which takes
the call's tracer from the context and does nothing if there is none. So only the outermost layer
knows whether tracing is on.

Attributes are ids and counts. Deliberately left out: texts, and the text of exceptions, which may
quote them; a failed span has only the code. A read that several calls wait for is a span of the
first call. OpenTelemetry's OTEL_TRACES_SAMPLER decides which calls are sampled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from constitution.errors import install_hint

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span as OTelSpan
    from opentelemetry.trace import Tracer

Value = str | int | float | bool
Metadata = Sequence[tuple[str, str | bytes]]

SERVICE_NAME = "rlaif-judge"
LONGEST_EXPORT_SECONDS = 5  # an unreachable collector delays a shutdown by no more

_tracer: ContextVar[Tracer | None] = ContextVar("judge_service_tracer", default=None)


class Span:
    """One step of a call. span: None when the call is not traced; `set` then does nothing."""

    def __init__(self, span: OTelSpan | None) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        """Add attributes that are known only after the start; never text."""
        if self._span is not None:
            self._span.set_attributes({f"rlaif.{name}": v for name, v in attributes.items()})


NO_SPAN = Span(None)


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[Span]:
    """Span of a step inside a call; does nothing if the call is not traced. No text attributes."""
    tracer = _tracer.get()
    if tracer is None:
        yield NO_SPAN
        return
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False
    ) as opened:
        step = Span(opened)
        step.set(**attributes)
        yield step


class NoTracing:
    """The calls of a server; this base class does not trace them."""

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Span]:
        """Span of one call of the RPC `Service/Method`, with the call's metadata."""
        yield NO_SPAN

    def close(self) -> None:
        """Export pending spans; blocks for LONGEST_EXPORT_SECONDS at most."""


NO_TRACING = NoTracing()


class Tracing(NoTracing):
    """Passes the spans of our calls to `processor`, such as a BatchSpanProcessor.

    Raises ImportError, as `tracing_to` does.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        with _name_missing_extra():
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        resource = Resource.create({"service.name": SERVICE_NAME})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._calls = self._provider.get_tracer("judge_service")

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Span]:
        """Span of one call, child of the caller's span if the metadata has a `traceparent`."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Not tracestate and baggage: they are a caller's text, and would be exported unchanged.
        carrier = {key: str(value) for key, value in metadata if key == "traceparent"}
        parent = TraceContextTextMapPropagator().extract(carrier)
        service, _, rpc = method.lstrip("/").partition("/")
        token = _tracer.set(self._calls)
        try:
            with self._calls.start_as_current_span(
                f"{service}/{rpc}",
                context=parent,
                kind=SpanKind.SERVER,
                attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc},
                record_exception=False,
                set_status_on_exception=False,
            ) as opened:
                yield Span(opened)
        finally:
            _tracer.reset(token)

    def close(self) -> None:
        """Export pending spans and stop; blocks for LONGEST_EXPORT_SECONDS at most."""
        self._provider.shutdown()


def tracing_to(endpoint: str | None) -> NoTracing:
    """The tracing of a server: exported to this OTLP collector, NO_TRACING if it is None.

    Raises ImportError, naming the extra to install, when OpenTelemetry is missing.
    """
    if endpoint is None:
        return NO_TRACING
    with _name_missing_extra():
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=LONGEST_EXPORT_SECONDS)
    return Tracing(BatchSpanProcessor(exporter))


def outgoing() -> tuple[tuple[str, str], ...]:
    """Call metadata with the trace context of the current span; () if there is none.

    A process that never imported OpenTelemetry has no span, so a client does not need it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple((key, value) for key, value in carrier.items() if key == "traceparent")


@contextmanager
def _name_missing_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"traces need OpenTelemetry; {install_hint('trace')}, or unset otlp_endpoint"
        ) from error
