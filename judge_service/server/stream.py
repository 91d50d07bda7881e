"""The server's side of one StreamJudgments call.

Memory is bounded by the number of items: each holds one of `limit` slots from being read off the
wire until its answer is written, so neither a slow engine nor a slow client makes more pile up.

A stream on which nothing moves, because its client neither sends nor reads, ends after a while: it
occupies one of the server's calls. Time in which the server judges an item does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from judge_service.errors import InvalidRequest, Unavailable
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.server.malformed import MalformedRequest, require_wellformed
from judge_service.status import service_error, to_status
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.requests import MAX_ITEM_ID, is_request_id

Compare = Callable[[pb.ComparePairRequest], Awaitable[pb.Judgment | None]]
_Item = pb.StreamJudgmentsRequest | MalformedRequest


class JudgmentStream:
    """Answers items in the order in which they finish; `compare` judges one.

    context: the call's, of grpc.aio. limit: items accepted and not yet answered. idle_seconds: in
    which the client must send an item or read an answer, while none is being judged.

    An exception from `compare` is that item's error, except Unavailable, which ends the stream: the
    client then sends the unanswered items elsewhere, or waits.
    """

    def __init__(
        self,
        context: Any,
        compare: Compare,
        limit: int,
        metrics: NoMetrics = NO_METRICS,
        *,
        idle_seconds: float = 300.0,
    ) -> None:
        self._context = context
        self._compare = compare
        self._limit = limit
        self._metrics = metrics
        self._idle_seconds = idle_seconds
        self._idle = asyncio.timeout(idle_seconds)
        self._judging = 0
        self._slots = asyncio.Semaphore(limit)
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._unanswered: set[str] = set()
        self._reading: asyncio.Future[Any] | None = None
        self._progress = pb.StreamProgress()

    async def run(self, draining: asyncio.Event) -> None:
        """Answer every item until the client closes. Raises Unavailable when draining or idle."""
        try:
            async with self._idle:
                await self._run(draining)
        except TimeoutError:
            if not self._idle.expired():
                raise
            raise Unavailable(
                f"nothing was sent or read on this stream for {self._idle_seconds:g} s; open "
                "another one when there is more to judge",
                reason="IDLE_STREAM",
            ) from None

    async def _run(self, draining: asyncio.Event) -> None:
        await self._respond(pb.StreamJudgmentsResponse(credits=self._limit))
        stopping = asyncio.create_task(self._stop_reading(draining))
        try:
            async with asyncio.TaskGroup() as group:
                while (request := await self._next(draining)) is not None:
                    self._progress.received += 1
                    group.create_task(self._take(request))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first; the others were cancelled by it
        finally:
            stopping.cancel()
        if draining.is_set():
            raise Unavailable("the server is shutting down", reason="SHUTTING_DOWN")

    async def _next(self, draining: asyncio.Event) -> _Item | None:
        """The next item, once a slot is free; None at the end or when draining."""
        await self._slots.acquire()
        if draining.is_set():
            return None
        this = asyncio.current_task()
        assert this is not None
        self._reading = asyncio.ensure_future(self._context.read())
        try:
            request: Any = await self._reading
        except asyncio.CancelledError:
            if draining.is_set() and not this.cancelling():
                return None
            raise
        if request is grpc.aio.EOF:
            return None
        self._moved()
        item: _Item = request
        return item

    async def _stop_reading(self, draining: asyncio.Event) -> None:
        """Once the server drains, end the read that waits for the next item."""
        await draining.wait()
        if self._reading is not None:
            self._reading.cancel()

    async def _take(self, request: _Item) -> None:
        self._metrics.stream_items(1)
        try:
            await self._answer(request)
        finally:
            self._metrics.stream_items(-1)

    async def _answer(self, request: _Item) -> None:
        id = "" if isinstance(request, MalformedRequest) else request.id
        response = pb.StreamJudgmentsResponse(id=id[:MAX_ITEM_ID], credits=1)
        mine = 0 < len(id) <= MAX_ITEM_ID and id not in self._unanswered
        try:
            comparison = require_wellformed(request).comparison
            if not mine:
                expected = f"1 to {MAX_ITEM_ID} characters, and not those of an unanswered item"
                raise InvalidRequest("id", expected)
            self._unanswered.add(id)
            with self._at_work():
                judgment = await self._compare(comparison)
            if judgment is not None:
                response.judgment.CopyFrom(judgment)
        except Unavailable:
            raise
        except Exception as error:
            response.error.CopyFrom(to_status(service_error(error), _request_id(request)))
        if mine:
            self._unanswered.discard(id)
        await self._respond(response)
        self._slots.release()

    async def _respond(self, response: pb.StreamJudgmentsResponse) -> None:
        async with self._writing:
            self._progress.answered += bool(response.id or response.HasField("error"))
            response.progress.CopyFrom(self._progress)
            await self._context.write(response)
            self._moved()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """While an item is judged the stream is not idle."""
        self._judging += 1
        self._moved()
        try:
            yield
        finally:
            self._judging -= 1
            self._moved()

    def _moved(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._idle.expired():
            self._idle.reschedule(None if self._judging else now + self._idle_seconds)


def _request_id(item: _Item) -> str:
    """The request id of an item, else the item's own id."""
    if isinstance(item, MalformedRequest):
        return ""
    named = item.comparison.request_id
    return named if named and is_request_id(named) else item.id[:MAX_ITEM_ID]
