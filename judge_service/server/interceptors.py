"""The interceptor around every call of our services: admission, deadlines, errors, metrics, logs.

Health and reflection are not intercepted, so that they answer under any load.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Hashable
from typing import Any

import grpc

from judge_service.errors import DeadlinePassed, Overloaded, ServiceError, Unavailable
from judge_service.observability.logs import fields
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import NO_SPAN, NO_TRACING, NoTracing, Span
from judge_service.rpc import RPC, Behavior, find_rpc, is_ours
from judge_service.security.caller import current_caller
from judge_service.server.deadlines import LatencyWindow, kind_of
from judge_service.server.incoming import IncomingRequest
from judge_service.status import abort, service_error

_log = logging.getLogger("judge_service")


class CallGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Admits at most `max_concurrent` calls, and turns exceptions into rich statuses.

    metrics, tracing: record every call. request_seconds: for one request to arrive. Around
    RequestReader, so that a call is admitted before its request is read. Not gRPC's own
    `maximum_concurrent_rpcs`, which counts health checks too and refuses without ErrorInfo and
    RetryInfo.
    """

    def __init__(
        self,
        max_concurrent: int,
        metrics: NoMetrics = NO_METRICS,
        tracing: NoTracing = NO_TRACING,
        *,
        request_seconds: float = 60.0,
    ) -> None:
        self._max_concurrent = max_concurrent
        self._request_seconds = request_seconds
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
        if find_rpc(details.method).streaming:
            wrap, behavior = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        else:
            wrap, behavior = grpc.stream_unary_rpc_method_handler, handler.stream_unary

        async def guarded(requests: Any, context: Any) -> Any:
            incoming = IncomingRequest(context, self._request_seconds)
            with self._tracing.call(details.method, context.invocation_metadata() or ()) as span:
                return await self._call(details.method, behavior, incoming, context, span)

        return wrap(guarded, handler.request_deserializer, handler.response_serializer)

    async def _call(
        self,
        method: str,
        behavior: Behavior,
        incoming: IncomingRequest,
        context: Any,
        span: Span = NO_SPAN,
    ) -> Any:
        own_id, started, code = uuid.uuid4().hex, time.perf_counter(), "OK"
        # Streams stay long and idle, so they do not count as load beside a unary call.
        rpc = find_rpc(method)
        self._active += 1
        self._streams += rpc.streaming
        concurrent = self._active - self._streams
        kind: Hashable = None
        failed: ServiceError

        def check_time(request: Any) -> None:
            nonlocal kind
            if not getattr(request, "validate_only", False):
                kind = kind_of(method, current_caller().name, request)
                self._refuse_late(kind, concurrent, context)

        incoming.check = check_time
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        self._idle.clear()
        self._metrics.call_began()
        try:
            if not rpc.always_admitted:
                self._admit(context)
            answer = await behavior(incoming, context)
            if kind is not None:
                self._latencies.ended(kind, time.perf_counter() - started, concurrent)
            return answer
        except asyncio.CancelledError:
            # Either the caller cancelled, or `drain` cuts the call, which the caller must learn.
            if not self._cutting or context.cancelled():
                code = "CANCELLED"
                raise
            failed = Unavailable("the server is shutting down", reason="SHUTTING_DOWN")
            code = failed.code
        except Exception as error:
            if context.cancelled() or isinstance(error, grpc.aio.InternalError):
                # The caller is gone: writing to it failed.
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            failed = service_error(error)
            code = failed.code
        finally:
            self._leave(rpc, task)
            seconds = time.perf_counter() - started
            self._record(rpc, incoming.request_id or own_id, code, seconds, span)
        # Only now: a caller that does not read keeps this waiting, and must keep nothing else.
        await abort(context, failed, incoming.request_id or own_id)

    def _leave(self, rpc: RPC, task: asyncio.Task[Any]) -> None:
        self._active -= 1
        self._streams -= rpc.streaming
        self._calls.discard(task)
        if not self._active:
            self._idle.set()

    def _record(self, rpc: RPC, request_id: str, code: str, seconds: float, span: Span) -> None:
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

    def _refuse_late(self, kind: Hashable, concurrent: int, context: Any) -> None:
        """Refuse a call that cannot be finished in time beside the others; alone it is tried."""
        remaining = context.time_remaining()
        quickest = self._latencies.quickest(kind, concurrent)
        if remaining is not None and remaining < quickest and concurrent > 1:
            raise DeadlinePassed(
                f"the deadline leaves {remaining:.3g} s, and recent calls like it took at least "
                f"{quickest:.3g} s; give it longer, or retry when the server is less busy",
                reason="DEADLINE_TOO_SHORT",
            )
