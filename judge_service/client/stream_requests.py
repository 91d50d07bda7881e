"""The requests of one stream of comparisons, from their source until they are answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint

import grpc

from judge_service.status import Failure
from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged, UnjudgedReason
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.judgments import judgment_from_proto
from judge_service.wire.requests import MAX_ITEM_ID, compare_request

Answer = tuple[str, Judgment | Unjudged]

_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
_ENVELOPE_BYTES = 64  # what the id and the framing add to an item, besides the id's own length


class StreamRequests:
    """Requests made one by one from `comparisons`, and kept while they are unanswered.

    max_message_bytes: a larger comparison is Unjudged, not sent. answered: how many were.
    """

    def __init__(
        self,
        comparisons: Iterable[Comparison],
        constitution: pb.ConstitutionRef,
        options: JudgeOptions,
        *,
        max_message_bytes: int,
    ) -> None:
        self.unanswered: dict[str, pb.StreamJudgmentsRequest] = {}
        self.answered = 0
        self._source: Iterator[Comparison] | None = iter(comparisons)
        self._constitution = constitution
        self._options = options
        self._max_bytes = max_message_bytes
        self._returned: deque[pb.StreamJudgmentsRequest] = deque()
        self._refused_here: list[Answer] = []  # comparisons that were never sent

    @property
    def finished(self) -> bool:
        """Whether `comparisons` is exhausted and each that was sent is answered."""
        return self._source is None and not self.unanswered

    @property
    def may_have_more(self) -> bool:
        """Whether `take` may have another one."""
        return self._source is not None or bool(self._returned)

    @property
    def left(self) -> int | None:
        """How many are unanswered or not taken yet; None for a source that does not say its length,
        as a generator."""
        new = 0 if self._source is None else length_hint(self._source, -1)
        return None if new < 0 else new + len(self.unanswered)

    def take(
        self, accept: Callable[[pb.StreamJudgmentsRequest], bool] = lambda request: True
    ) -> pb.StreamJudgmentsRequest | None:
        """The next to send, first of those given back; None if there is none.

        accept: whether one that was given back may be taken.
        """
        for place, request in enumerate(self._returned):
            if accept(request):
                del self._returned[place]
                return request
        return self._new()

    def give_back(self, requests: Iterable[pb.StreamJudgmentsRequest]) -> None:
        """Requests that were taken and are to be taken again, before any new one."""
        self._returned.extend(requests)

    def ask_again(self, request: pb.StreamJudgmentsRequest) -> None:
        """A request whose answer does not count."""
        self.answered -= 1
        self.unanswered[request.id] = request
        self._returned.append(request)

    @property
    def has_refused(self) -> bool:
        """Whether `refused` has any."""
        return bool(self._refused_here)

    def refused(self) -> list[Answer]:
        """Those that could not be sent, with the reason; each is given once."""
        refused, self._refused_here = self._refused_here, []
        return refused

    def answer(self, response: pb.StreamJudgmentsResponse, address: str) -> Answer | None:
        """The answer in a response; None if it has none, as the opening one.

        address: of its server. Raises JudgeRequestError if the constitution or the options are
        refused, since every other item would be too.
        """
        if self.unanswered.pop(response.id, None) is None:
            return None
        self.answered += 1
        if response.HasField("judgment"):
            return response.id, judgment_from_proto(response.judgment)
        failure = Failure.from_status(response.error)
        if failure.code not in _REFUSALS:
            return response.id, Unjudged(UnjudgedReason.ENGINE_FAILED, failure.message)
        if any(field.startswith(("constitution", "options")) for field in failure.fields):
            raise failure.explain(address)
        return response.id, Unjudged(UnjudgedReason.REFUSED, failure.message)

    def _new(self) -> pb.StreamJudgmentsRequest | None:
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
            self.unanswered[comparison.id] = request
            return request
        return None

    def _request(self, comparison: Comparison) -> pb.StreamJudgmentsRequest:
        if comparison.id in self.unanswered:
            raise ValueError("another comparison of the same id is still unanswered")
        if not 0 < len(comparison.id) <= MAX_ITEM_ID:
            raise ValueError(f"invalid id: a comparison's id has 1 to {MAX_ITEM_ID} characters")
        return pb.StreamJudgmentsRequest(
            id=comparison.id,
            comparison=compare_request(comparison, self._constitution, self._options),
        )
