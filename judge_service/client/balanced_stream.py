"""One stream of comparisons over several servers, without I/O of its own.

All servers take from one queue, each as many comparisons as it has room for (its credits), so the
one that answers faster gets more. The first are sent once every server is connected or has failed
to be, so that a short list is shared too. A server begins with a few in flight and gets one more
for each answer; at the end of a list none holds more than its share by speed of what is left, so
that the others do not wait for a slow one.

What a server had not answered when its stream broke goes to the others at once; it is tried again
meanwhile, and takes part again when it is back. What a server's engine failed to answer is asked
once more of another server. All servers must be the same judge (replicas.py): each is compared with
the others whenever it is connected, before anything is asked of it.

The sync and the aio client drive it the same way, each event in turn:

    while session.begin():
        for server in session.due():               # open a stream to each of these
        for server, request in session.to_send():  # send it
        session.refused()                          # answers for the caller
        if session.waits:                          # for an event, session.seconds_until_due() long
            session.connected(server, info)        # what the server says of itself
            session.exchange(server, response)     # answers for the caller
            session.broken(server, error)
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc

from judge_service.client.replicas import one_judge
from judge_service.client.resumable_stream import why_broken
from judge_service.client.stream_requests import Answer, StreamRequests
from judge_service.errors import JudgeUnavailable
from judge_service.server_info import ServerInfo, ServerState
from judge_service.types import Unjudged, UnjudgedReason
from judge_service.v1 import judge_pb2 as pb

FIRST_IN_FLIGHT = 8
"""How many a server gets before it has answered any."""


@dataclass(eq=False)
class _Server:
    """One server's part in the stream.

    tried: it has been connected, or has failed to be. open: a stream to it is open or being opened.
    in_flight: sent and unanswered, by id. due: when
    it is tried again, of time.monotonic. since, answers: when it was connected last, and how many
    it has given since; answered: in all. broken_since: None where it works, as far as is known.
    """

    address: str
    tried: bool = False
    open: bool = False
    info: ServerInfo | None = None
    credits: int = 0
    in_flight: dict[str, pb.StreamJudgmentsRequest] = field(default_factory=dict)
    since: float = 0.0
    answers: int = 0
    answered: int = 0
    due: float = 0.0
    delay: float = 0.1
    broken_since: float | None = None

    @property
    def speed(self) -> float | None:
        """Answers per second since it was connected; None before the first."""
        return self.answers / max(time.monotonic() - self.since, 1e-6) if self.answers else None


class BalancedStream:
    """The state of one stream over several servers.

    addresses: one for each server; elsewhere a server is its place among them. reconnect_seconds:
    how long all of them may be broken without an answer.
    """

    def __init__(
        self, requests: StreamRequests, addresses: Sequence[str], *, reconnect_seconds: float
    ) -> None:
        self._requests = requests
        self._servers = [_Server(address) for address in addresses]
        self._reconnect_seconds = reconnect_seconds
        self._failed_at: dict[str, _Server] = {}  # id → where its engine failed, of each first try

    def begin(self) -> bool:
        """Whether anything is left to do; call it until it is False."""
        if not self._requests.unanswered and (first := self._requests.take()) is not None:
            self._requests.give_back([first])  # else a stream would be opened for nothing
        return not self._requests.finished or self._requests.has_refused

    @property
    def waits(self) -> bool:
        """Whether nothing can be done before the next event."""
        return not self._requests.finished and not self._requests.has_refused

    def refused(self) -> list[Answer]:
        """Answers to comparisons that could not be sent."""
        return self._requests.refused()

    def due(self) -> list[int]:
        """The servers to which a stream must be opened now; they count as opened."""
        if not self._requests.may_have_more:
            return []
        now = time.monotonic()
        places = [n for n, s in enumerate(self._servers) if not s.open and s.due <= now]
        for place in places:
            self._servers[place].open = True
        return places

    def seconds_until_due(self) -> float | None:
        """Until the next server is due; None if none is without an event."""
        if not self._requests.may_have_more:
            return None
        waiting = [server.due for server in self._servers if not server.open]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def connected(self, place: int, info: ServerInfo) -> None:
        """The stream to a server is being opened, and this is what it says of itself.

        Raises JudgeRequestError where it is not the same judge as the others, and JudgeUnavailable,
        which is to be given to `broken`, where it does not serve.
        """
        server = self._servers[place]
        said = {s.address: info if s is server else s.info for s in self._servers}
        one_judge({address: each for address, each in said.items() if each is not None})
        if info.state is not ServerState.SERVING:
            raise JudgeUnavailable(f"the judge at {server.address} is {info.state.value}")
        server.info, server.since, server.answers = info, time.monotonic(), 0

    def exchange(self, place: int, response: pb.StreamJudgmentsResponse) -> list[Answer]:
        """The answers for the caller after a response of a server.

        Raises JudgeRequestError if the constitution or the options are refused.
        """
        server = self._servers[place]
        server.tried = True
        server.credits += response.credits
        request = server.in_flight.pop(response.id, None)
        answer = self._requests.answer(response, server.address)
        if request is None or answer is None:
            return []
        server.broken_since, server.delay = None, 0.1
        server.answered += 1
        server.answers += 1
        if self._is_tried_again(server, request, answer):
            return []
        return [answer]

    def to_send(self) -> Iterator[tuple[int, pb.StreamJudgmentsRequest]]:
        """(server, request) of what can be sent now; it counts as sent."""
        if not all(server.tried for server in self._servers):
            return
        sent = True
        while sent:  # one to each in turn
            sent = False
            for place, server in enumerate(self._servers):
                if self._has_room(server) and (request := self._next_for(server)) is not None:
                    server.credits -= 1
                    server.in_flight[request.id] = request
                    sent = True
                    yield place, request
        for server in self._servers:
            if server.credits and not server.in_flight:
                server.broken_since = None  # it works, and has nothing to answer

    def broken(self, place: int, error: Exception | None) -> None:
        """The stream to a server has ended; the others get what it had not answered.

        error: the reason, a grpc.RpcError or another; None after a normal end. Raises
        JudgeUnavailable once all servers have been broken for too long, and at once any error that
        a retry cannot fix.
        """
        server, now = self._servers[place], time.monotonic()
        if error is None or isinstance(error, grpc.RpcError):
            error = why_broken(error, server.address)
        elif not isinstance(error, JudgeUnavailable):
            raise error
        server.tried = True
        self._requests.give_back(server.in_flight.values())
        server.open, server.credits, server.in_flight = False, 0, {}
        server.broken_since = server.broken_since or now
        server.delay = min(2 * server.delay, 5.0)
        server.due = now + server.delay * random.uniform(0.5, 1.0)
        since = [s.broken_since for s in self._servers if s.broken_since is not None]
        if len(since) == len(self._servers) and now - max(since) >= self._reconnect_seconds:
            raise JudgeUnavailable(
                f"{error} ({self._answered()} comparisons of this stream were answered before, "
                f"{len(self._requests.unanswered)} that were sent were not; tried to reconnect to "
                f"{len(self._servers)} servers for {self._reconnect_seconds:g} s)"
            )

    def _answered(self) -> str:
        each = ", ".join(f"{server.answered} by {server.address}" for server in self._servers)
        return f"{self._requests.answered} ({each})"

    def _has_room(self, server: _Server) -> bool:
        """Whether a server may hold one more."""
        held = len(server.in_flight)
        if not server.credits or held >= FIRST_IN_FLIGHT + server.answers:
            return False
        left = self._requests.left
        return left is None or not held or held < left * self._share(server)

    def _share(self, server: _Server) -> float:
        """A server's share of the speed of all that are connected; equal shares of unknown ones."""
        connected = [s for s in self._servers if s.credits or s.in_flight]
        known = [s.speed for s in connected if s.speed is not None]
        if server.speed is None or not known:
            return 1 / len(connected)
        # One that has not answered yet counts as much as the mean of the others.
        return server.speed / (sum(known) * len(connected) / len(known))

    def _next_for(self, server: _Server) -> pb.StreamJudgmentsRequest | None:
        alone = not self._others_work(server)
        return self._requests.take(
            lambda request: alone or self._failed_at.get(request.id) is not server
        )

    def _others_work(self, server: _Server) -> bool:
        return any(s.credits or s.in_flight for s in self._servers if s is not server)

    def _is_tried_again(
        self, server: _Server, request: pb.StreamJudgmentsRequest, answer: Answer
    ) -> bool:
        """Whether a failed item goes to another server, once: a broken engine that fails fast would
        otherwise answer most of the stream."""
        is_second = self._failed_at.pop(request.id, None) is not None
        outcome = answer[1]
        failed = isinstance(outcome, Unjudged) and outcome.reason is UnjudgedReason.ENGINE_FAILED
        if not failed or is_second or not self._others_work(server):
            return False
        self._failed_at[request.id] = server
        self._requests.ask_again(request)
        return True
