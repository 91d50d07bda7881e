"""One trace from the client to the engine, by OpenTelemetry (extra `trace`).

    client's span ── traceparent ──► rpc ──► judge.compare ──► engine.read …

A client passes on the span it runs in, as W3C trace context in the call's metadata. The server
opens a span for the call where it has an `otlp_endpoint`; whatever runs inside opens its own by
`span`, which finds the call's tracer in the context and does nothing where there is none. So only
the outermost layer knows whether anybody traces.

Attributes are ids and counts. Left out on purpose: texts, and the text of exceptions, which may
quote one; a failed span says the code alone. A read that several calls wait for is a span of the
call that asked first. Which calls are sampled is OpenTelemetry's OTEL_TRACES_SAMPLER.
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
LONGEST_EXPORT_SECONDS = 5  # an unreachable collector holds a shutdown up no longer

_tracer: ContextVar[Tracer | None] = ContextVar("judge_service_tracer", default=None)


class Span:
    """One step of a call; `set` adds what is known only later."""

    def __init__(self, span: OTelSpan | None) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        if self._span is not None:
            self._span.set_attributes({f"rlaif.{name}": v for name, v in attributes.items()})


NO_SPAN = Span(None)


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[Span]:
    """A step inside a call; nothing where the call is not traced. No text in the attributes."""
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
    """Every call of a server, and nobody who traces it."""

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Span]:
        """Around one call of the RPC `Service/Method`; `metadata` as it came with the call."""
        yield NO_SPAN

    def close(self) -> None:
        """Send what was not sent yet; blocks for some seconds at most."""


NO_TRACING = NoTracing()


class Tracing(NoTracing):
    """Spans of our calls, handed to `processor`. Raises ImportError, as `tracing_to` does."""

    def __init__(self, processor: SpanProcessor) -> None:
        with _told_which_extra():
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        resource = Resource.create({"service.name": SERVICE_NAME})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._calls = self._provider.get_tracer("judge_service")

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Not tracestate and baggage: they are a caller's words, and would be exported as they came.
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
        self._provider.shutdown()


def tracing_to(endpoint: str | None) -> NoTracing:
    """What traces for a server with this collector; None: nothing.

    Raises ImportError, naming the extra to install, where OpenTelemetry is not.
    """
    if endpoint is None:
        return NO_TRACING
    with _told_which_extra():
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=LONGEST_EXPORT_SECONDS)
    return Tracing(BatchSpanProcessor(exporter))


def outgoing() -> tuple[tuple[str, str], ...]:
    """The metadata that tells a server in which span its caller runs.

    A process that never imported OpenTelemetry runs in no span, so a client need not have it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple((key, value) for key, value in carrier.items() if key == "traceparent")


@contextmanager
def _told_which_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"traces need OpenTelemetry; {install_hint('trace')}, or unset otlp_endpoint"
        ) from error
