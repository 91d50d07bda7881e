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
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from judge_service.errors import JudgeUnavailable
from judge_service.status import Failure
from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged, UnjudgedReason
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.judgments import judgment_from_proto
from judge_service.wire.requests import MAX_ITEM_ID, compare_request

Answer = tuple[str, Judgment | Unjudged]

_DISCONNECTED = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""The codes that gRPC reports when a server is killed, besides UNAVAILABLE."""
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
_ENVELOPE_BYTES = 64  # what the id and the framing add to an item, besides the id's own length


class ResumableStream:
    """The state of one stream of comparisons: what is unsent, unanswered and refused.

    address: for messages only. max_message_bytes: a larger comparison is Unjudged, not sent.
    reconnect_seconds: bounds the time without an answer after a break.
    """

    def __init__(
        self,
        comparisons: Iterable[Comparison],
        constitution: pb.ConstitutionRef,
        options: JudgeOptions,
        *,
        address: str,
        max_message_bytes: int,
        reconnect_seconds: float,
    ) -> None:
        self._source: Iterator[Comparison] | None = iter(comparisons)
        self._constitution = constitution
        self._options = options
        self._address = address
        self._max_bytes = max_message_bytes
        self._reconnect_seconds = reconnect_seconds
        self._unanswered: dict[str, pb.StreamJudgmentsRequest] = {}
        self._unsent: deque[pb.StreamJudgmentsRequest] = deque()
        self._credits = 0
        self._refused_here: list[Answer] = []  # comparisons that were never sent
        self._answered = 0
        self._broken_since: float | None = None
        self._delay = 0.0

    @property
    def finished(self) -> bool:
        """Whether `comparisons` is exhausted and each that was sent is answered."""
        return self._source is None and not self._unanswered

    def begin(self) -> bool:
        """Prepare a new call; False if nothing is left to do."""
        self._credits = 0
        self._unsent = deque(self._unanswered.values())
        if not self._unsent and (first := self._take()) is not None:
            self._unsent.append(first)
        return not self.finished or bool(self._refused_here)

    def exchange(
        self, response: pb.StreamJudgmentsResponse
    ) -> tuple[list[Answer], list[pb.StreamJudgmentsRequest]]:
        """The answers for the caller and the requests for the server after a response.

        Raises JudgeRequestError if the constitution or the options are refused, since every other
        item would be too.
        """
        answers = self._answers(response)
        self._credits += response.credits
        requests = []
        while self._credits and (request := self._next()) is not None:
            requests.append(request)
            self._credits -= 1
        answers += self._refused_here
        self._refused_here = []
        return answers, requests

    def broken(self, error: Any | None) -> float:
        """Seconds to wait before the next call.

        error: the grpc.RpcError that ended the last one, or None after a normal end.

        Raises JudgeUnavailable after too long a time without an answer, and at once any error that
        a retry cannot fix.
        """
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since, self._delay = now, 0.1
        explained: Exception = JudgeUnavailable(f"the judge at {self._address} ended the stream")
        if error is not None:
            failure = Failure.from_rpc_error(error)
            explained = failure.explain(self._address)
            cut_off = not failure.reason and failure.code in _DISCONNECTED
            if not failure.retryable and not cut_off:
                raise explained
        if now - self._broken_since >= self._reconnect_seconds:
            raise JudgeUnavailable(
                f"{explained} ({self._answered} comparisons of this stream were answered before, "
                f"{len(self._unanswered)} that were sent were not; "
                f"tried to reconnect for {self._reconnect_seconds:g} s)"
            )
        self._delay = min(2 * self._delay, 5.0)
        return self._delay * random.uniform(0.5, 1.0)

    def _answers(self, response: pb.StreamJudgmentsResponse) -> list[Answer]:
        if self._unanswered.pop(response.id, None) is None:  # the opening response
            return []
        self._answered += 1
        self._broken_since = None
        if response.HasField("judgment"):
            return [(response.id, judgment_from_proto(response.judgment))]
        failure = Failure.from_status(response.error)
        if failure.code not in _REFUSALS:
            return [(response.id, Unjudged(UnjudgedReason.ENGINE_FAILED, failure.message))]
        if any(field.startswith(("constitution", "options")) for field in failure.fields):
            raise failure.explain(self._address)
        return [(response.id, Unjudged(UnjudgedReason.REFUSED, failure.message))]

    def _next(self) -> pb.StreamJudgmentsRequest | None:
        return self._unsent.popleft() if self._unsent else self._take()

    def _take(self) -> pb.StreamJudgmentsRequest | None:
        """The next comparison that can be sent; those that cannot are answered here."""
        while self._source is not None:
            comparison = next(self._source, None)
            if comparison is None:
                self._source = None
                return None
            try:
                request = self._request(comparison)
            except (TypeError, ValueError) as error:
                self._refused_here.append(
                    (comparison.id, Unjudged(UnjudgedReason.REFUSED, str(error)))
                )
                continue
            size = request.ByteSize()
            if size + _ENVELOPE_BYTES > self._max_bytes:
                detail = (
                    f"{size} bytes; the limit is {self._max_bytes} per message, shorten the texts"
                )
                unjudged = Unjudged(UnjudgedReason.TOO_LONG, detail)
                self._refused_here.append((comparison.id, unjudged))
                continue
            self._unanswered[comparison.id] = request
            return request
        return None

    def _request(self, comparison: Comparison) -> pb.StreamJudgmentsRequest:
        if comparison.id in self._unanswered:
            raise ValueError("another comparison of the same id is still unanswered")
        if not 0 < len(comparison.id) <= MAX_ITEM_ID:
            raise ValueError(f"invalid id: a comparison's id has 1 to {MAX_ITEM_ID} characters")
        return pb.StreamJudgmentsRequest(
            id=comparison.id,
            comparison=compare_request(comparison, self._constitution, self._options),
        )
