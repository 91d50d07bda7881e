"""The interceptor around every call of our services: admission, deadlines, errors, metrics, logs.

Health and reflection are not intercepted, so that they answer under any load.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

import grpc

from judge_service.errors import DeadlinePassed, Overloaded, Unavailable
from judge_service.observability.logs import fields
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import NO_SPAN, NO_TRACING, NoTracing, Span
from judge_service.rpc import Behavior, find_rpc, is_ours
from judge_service.security.caller import current_caller
from judge_service.server.deadlines import LatencyWindow
from judge_service.server.malformed import reader, require_wellformed
from judge_service.status import abort, service_error
from judge_service.wire.requests import is_request_id

_log = logging.getLogger("judge_service")


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Admits at most `max_concurrent` calls, and turns exceptions into rich statuses.

    metrics, tracing: record every call. Not gRPC's own `maximum_concurrent_rpcs`, which counts
    health checks too and refuses without ErrorInfo and RetryInfo.
    """

    def __init__(
        self,
        max_concurrent: int,
        metrics: NoMetrics = NO_METRICS,
        tracing: NoTracing = NO_TRACING,
    ) -> None:
        self._max_concurrent = max_concurrent
        self._metrics = metrics
        self._tracing = tracing
        self._latencies = LatencyWindow()
        self._active = 0
        self._streams = 0
        self._calls: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._cutting = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new calls; return when those in progress have ended, or after the grace period.

        Calls that are cut then fail as UNAVAILABLE, so that clients turn to another replica.
        """
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_seconds)
        except TimeoutError:
            _log.warning("%d calls did not end within %g s", self._active, grace_seconds)
            self._cutting = True
            for call in self._calls:
                call.cancel()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called by gRPC for every call: the handler of one of ours, with the guard around it."""
        handler = await continuation(details)
        if handler is None or not is_ours(details.method):
            return handler
        if handler.request_streaming:
            wrap, behavior = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        else:
            wrap, behavior = grpc.unary_unary_rpc_method_handler, handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            with self._tracing.call(details.method, context.invocation_metadata() or ()) as span:
                return await self._call(details.method, behavior, request, context, span)

        return wrap(guarded, reader(handler.request_deserializer), handler.response_serializer)

    async def _call(
        self,
        method: str,
        behavior: Behavior,
        request: Any,
        context: Any,
        span: Span = NO_SPAN,
    ) -> Any:
        request_id, started, code = _request_id(request), time.perf_counter(), "OK"
        # Streams stay long and idle, so they do not count as load beside a unary call.
        rpc = find_rpc(method)
        self._active += 1
        self._streams += rpc.streaming
        concurrent = self._active - self._streams
        timed = not rpc.streaming and not getattr(request, "validate_only", False)
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        self._idle.clear()
        self._metrics.call_began()
        try:
            if not rpc.always_admitted:
                self._admit(context)
            if timed:
                self._refuse_late(method, concurrent, context)
            answer = await behavior(require_wellformed(request), context)
            if timed:
                self._latencies.ended(method, time.perf_counter() - started, concurrent)
            return answer
        except asyncio.CancelledError:
            # Either the caller cancelled, or `drain` cuts the call, which the caller must learn.
            if not self._cutting or context.cancelled():
                code = "CANCELLED"
                raise
            cut = Unavailable("the server is shutting down", reason="SHUTTING_DOWN")
            code = cut.code
            await abort(context, cut, request_id)
        except Exception as error:
            if context.cancelled() or isinstance(error, grpc.aio.InternalError):
                # The caller is gone: writing to it failed.
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            failed = service_error(error)
            code = failed.code
            await abort(context, failed, request_id)
        finally:
            self._active -= 1
            self._streams -= rpc.streaming
            self._calls.discard(task)
            if not self._active:
                self._idle.set()
            seconds = time.perf_counter() - started
            caller = current_caller().name
            self._metrics.call_ended(rpc.name, code, seconds, caller)
            outcome = {"request_id": request_id, "code": code, "caller": caller}
            span.set(**outcome)
            level = logging.DEBUG if rpc.always_admitted and code == "OK" else logging.INFO  # polls
            _log.log(level, "call ended", extra=fields(method=rpc.name, seconds=seconds, **outcome))

    def _admit(self, context: Any) -> None:
        if self._draining:
            raise Unavailable("the server is shutting down", reason="SHUTTING_DOWN")
        if self._active > self._max_concurrent:
            raise Overloaded(
                f"server is at its limit of {self._max_concurrent} concurrent calls; retry later"
            )
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlinePassed("the deadline passed before the work began")

    def _refuse_late(self, method: str, concurrent: int, context: Any) -> None:
        """Refuse a call that cannot be finished in time beside the others; alone it is tried."""
        remaining = context.time_remaining()
        quickest = self._latencies.quickest(method, concurrent)
        if remaining is not None and remaining < quickest and concurrent > 1:
            raise DeadlinePassed(
                f"the deadline leaves {remaining:.3g} s, and recent calls took at least "
                f"{quickest:.3g} s; give it longer, or retry when the server is less busy",
                reason="DEADLINE_TOO_SHORT",
            )


def _request_id(request: Any) -> str:
    """The id of a request in errors and logs: the caller's, if valid, else a new one."""
    request_id: str = getattr(request, "request_id", "")
    return request_id if request_id and is_request_id(request_id) else uuid.uuid4().hex
