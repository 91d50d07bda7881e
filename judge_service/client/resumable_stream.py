"""The client's side of a stream of comparisons, without I/O of its own.

It remembers unanswered requests, so that a broken connection costs only the time to reconnect. The
sync and the aio client drive it the same way:

    while session.begin():            # something is unanswered: open a call
        for response in call:
            answers, requests = session.exchange(response)
            ...                       # send the requests, yield the answers
        on an error: wait session.broken(error) seconds
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Any

import grpc

from judge_service.client.stream_requests import Answer, StreamRequests
from judge_service.errors import JudgeUnavailable
from judge_service.status import Failure
from judge_service.v1 import judge_pb2 as pb

_DISCONNECTED = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""The codes that gRPC reports when a server is killed, besides UNAVAILABLE."""


class ResumableStream:
    """The state of one stream of comparisons: what is unsent, unanswered and refused.

    address: for messages only. reconnect_seconds: bounds the time without an answer after a break.
    """

    def __init__(self, requests: StreamRequests, *, address: str, reconnect_seconds: float) -> None:
        self._requests = requests
        self._address = address
        self._reconnect_seconds = reconnect_seconds
        self._unsent: deque[pb.StreamJudgmentsRequest] = deque()
        self._credits = 0
        self._broken_since: float | None = None
        self._delay = 0.0

    @property
    def finished(self) -> bool:
        """Whether the comparisons are exhausted and each that was sent is answered."""
        return self._requests.finished

    def begin(self) -> bool:
        """Prepare a new call; False if nothing is left to do."""
        self._credits = 0
        self._unsent = deque(self._requests.unanswered.values())
        if not self._unsent and (first := self._requests.take()) is not None:
            self._unsent.append(first)
        return not self.finished or self._requests.has_refused

    def exchange(
        self, response: pb.StreamJudgmentsResponse
    ) -> tuple[list[Answer], list[pb.StreamJudgmentsRequest]]:
        """The answers for the caller and the requests for the server after a response.

        Raises JudgeRequestError if the constitution or the options are refused.
        """
        answers = []
        if (answer := self._requests.answer(response, self._address)) is not None:
            self._broken_since = None
            answers.append(answer)
        self._credits += response.credits
        requests = []
        while self._credits and (request := self._next()) is not None:
            requests.append(request)
            self._credits -= 1
        return answers + self._requests.refused(), requests

    def broken(self, error: Any | None) -> float:
        """Seconds to wait before the next call.

        error: the grpc.RpcError that ended the last one, or None after a normal end.

        Raises JudgeUnavailable after too long a time without an answer, and at once any error that
        a retry cannot fix.
        """
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since, self._delay = now, 0.1
        explained = why_broken(error, self._address)
        if now - self._broken_since >= self._reconnect_seconds:
            raise JudgeUnavailable(
                f"{explained} ({self._requests.answered} comparisons of this stream were answered "
                f"before, {len(self._requests.unanswered)} that were sent were not; "
                f"tried to reconnect for {self._reconnect_seconds:g} s)"
            )
        self._delay = min(2 * self._delay, 5.0)
        return self._delay * random.uniform(0.5, 1.0)

    def _next(self) -> pb.StreamJudgmentsRequest | None:
        return self._unsent.popleft() if self._unsent else self._requests.take()


def why_broken(error: Any | None, address: str) -> Exception:
    """Why a stream to this address ended: error is its grpc.RpcError, or None for a normal end.

    Raises any error that a retry cannot fix.
    """
    if error is None:
        return JudgeUnavailable(f"the judge at {address} ended the stream")
    failure = Failure.from_rpc_error(error)
    explained = failure.explain(address)
    cut_off = not failure.reason and failure.code in _DISCONNECTED
    if not failure.retryable and not cut_off:
        raise explained
    return explained
