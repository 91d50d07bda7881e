"""The calls of a balanced stream (balanced_stream.py) in threads, one for each server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from judge_service.client import calls
from judge_service.client.balanced_stream import BalancedStream
from judge_service.client.base import INFO_SECONDS, Replica
from judge_service.client.stream_requests import Answer
from judge_service.errors import JudgeUnavailable
from judge_service.server_info import ServerInfo
from judge_service.v1 import judge_pb2 as pb

Metadata = Callable[[], tuple[tuple[str, str], ...]]
_Events = queue.SimpleQueue[tuple["CallInThread", Any]]


def balanced(
    session: BalancedStream, replicas: Sequence[Replica], metadata: Metadata
) -> Iterator[Answer]:
    """The answers of all servers, as they come. metadata: of a call that is made now.

    Comparisons are taken in the caller's thread. Raises as `BalancedStream`.
    """
    events: _Events = queue.SimpleQueue()
    open_calls: dict[int, CallInThread] = {}
    try:
        while session.begin():
            for place in session.due():
                open_calls[place] = CallInThread(place, replicas[place], metadata(), events)
            for place, request in session.to_send():
                open_calls[place].send(request)
            yield from session.refused()
            if not session.waits:
                continue
            try:
                call, event = events.get(timeout=session.seconds_until_due())
            except queue.Empty:
                continue
            if open_calls.get(call.place) is not call:
                continue  # the last words of a call that was given up
            if isinstance(event, pb.StreamJudgmentsResponse):
                yield from session.exchange(call.place, event)
                continue
            try:
                if isinstance(event, ServerInfo):
                    session.connected(call.place, event)
                    continue
            except JudgeUnavailable as error:
                event = error
            open_calls.pop(call.place).close()
            session.broken(call.place, event)
    finally:
        for call in open_calls.values():
            call.close()


class CallInThread:
    """A stream to one server; a thread of its own puts what comes of it into `events`.

    First the server's info, then its responses, at last the exception that ended it, or None.
    """

    def __init__(
        self, place: int, replica: Replica, metadata: tuple[Any, ...], events: _Events
    ) -> None:
        self.place = place
        self._replica = replica
        self._metadata = metadata
        self._events = events
        self._outbox: queue.SimpleQueue[pb.StreamJudgmentsRequest | None] = queue.SimpleQueue()
        self._closed = False
        self._current: Any = None
        self._thread = threading.Thread(target=self._run, name=f"stream to {replica.address}")
        self._thread.daemon = True
        self._thread.start()

    def send(self, request: pb.StreamJudgmentsRequest) -> None:
        """Send a request when gRPC has room for it."""
        self._outbox.put(request)

    def close(self) -> None:
        """End it; what it had in flight is cancelled in the server."""
        self._closed = True
        self._outbox.put(None)
        if self._current is not None:
            self._current.cancel()
        self._thread.join()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            ask = calls.server_info()
            stub = self._replica.stubs[ask.rpc]
            info = self._begun(
                stub.future(ask.request, timeout=INFO_SECONDS, metadata=self._metadata)
            )
            self._events.put((self, ask.read(info.result())))
            stub = self._replica.stubs["StreamJudgments"]
            # gRPC reads requests from the outbox in a thread of its own; None ends them.
            for response in self._begun(
                stub(iter(self._outbox.get, None), metadata=self._metadata)
            ):
                self._events.put((self, response))
        except Exception as raised:
            error = raised
        self._outbox.put(None)
        self._events.put((self, error))

    def _begun(self, call: Any) -> Any:
        """The call, which `close` cancels from now on."""
        self._current = call
        if self._closed:
            call.cancel()
        return call
