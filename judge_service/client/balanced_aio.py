"""The calls of a balanced stream (balanced_stream.py) in tasks, one for each server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from judge_service.client import calls
from judge_service.client.balanced_stream import BalancedStream
from judge_service.client.base import INFO_SECONDS, Replica
from judge_service.client.stream_requests import Answer
from judge_service.errors import JudgeUnavailable
from judge_service.server_info import ServerInfo
from judge_service.v1 import judge_pb2 as pb

Metadata = Callable[[], tuple[tuple[str, str], ...]]
_Events = asyncio.Queue[tuple["CallInTask", Any]]


async def balanced(
    session: BalancedStream, replicas: Sequence[Replica], metadata: Metadata
) -> AsyncGenerator[Answer, None]:
    """The answers of all servers, as they come. metadata: of a call that is made now.

    Raises as `BalancedStream`.
    """
    events: _Events = asyncio.Queue()
    open_calls: dict[int, CallInTask] = {}
    try:
        while session.begin():
            for place in session.due():
                open_calls[place] = CallInTask(place, replicas[place], metadata(), events)
            for place, request in session.to_send():
                open_calls[place].send(request)
            for answer in session.refused():
                yield answer
            if not session.waits:
                continue
            try:
                async with asyncio.timeout(session.seconds_until_due()):
                    call, event = await events.get()
            except TimeoutError:
                continue
            if open_calls.get(call.place) is not call:
                continue  # the last words of a call that was given up
            if isinstance(event, pb.StreamJudgmentsResponse):
                for answer in session.exchange(call.place, event):
                    yield answer
                continue
            try:
                if isinstance(event, ServerInfo):
                    session.connected(call.place, event)
                    continue
            except JudgeUnavailable as error:
                event = error
            await open_calls.pop(call.place).close()
            session.broken(call.place, event)
    finally:
        await asyncio.gather(*(call.close() for call in open_calls.values()))


class CallInTask:
    """A stream to one server; a task of its own puts what comes of it into `events`.

    First the server's info, then its responses, at last the exception that ended it, or None.
    """

    def __init__(
        self, place: int, replica: Replica, metadata: tuple[Any, ...], events: _Events
    ) -> None:
        self.place = place
        self._replica = replica
        self._metadata = metadata
        self._events = events
        self._outbox: asyncio.Queue[pb.StreamJudgmentsRequest] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def send(self, request: pb.StreamJudgmentsRequest) -> None:
        """Send a request when gRPC has room for it."""
        self._outbox.put_nowait(request)

    async def close(self) -> None:
        """End it; what it had in flight is cancelled in the server."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        error: Exception | None = None
        try:
            ask = calls.server_info()
            stub = self._replica.stubs[ask.rpc]
            info = await stub(ask.request, timeout=INFO_SECONDS, metadata=self._metadata)
            self._events.put_nowait((self, ask.read(info)))
            call = self._replica.stubs["StreamJudgments"](self._sent(), metadata=self._metadata)
            try:
                async for response in call:
                    self._events.put_nowait((self, response))
            finally:
                call.cancel()
        except Exception as raised:
            error = raised
        self._events.put_nowait((self, error))

    async def _sent(self) -> AsyncIterator[pb.StreamJudgmentsRequest]:
        """Requests from the outbox, which gRPC sends."""
        while True:
            yield await self._outbox.get()
