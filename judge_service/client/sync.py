"""The synchronous client of a judge server. Imports no torch, no vLLM and no transformers.

    with JudgeClient("127.0.0.1:50051") as judge:
        judgment = judge.compare("Name a fruit", "An apple.", "A stone.")

A call that fails raises `JudgeRequestError` (correct the request) or `JudgeUnavailable` (start the
server, or wait); both are UserErrors. A comparison that the judge could not label is `Unjudged`, a
value.

Channels do not survive a fork: create the client in the process that uses it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import grpc

from constitution.errors import Diagnostic
from constitution.schema import Constitution
from judge_service.client import calls
from judge_service.client.aio import AsyncJudgeClient
from judge_service.client.base import (
    POLL_SECONDS,
    PROBE_SECONDS,
    RECOMMENDED,
    RECOMMENDED_WRITING,
    ClientBase,
    Progress,
    Waiting,
    stubs,
)
from judge_service.client.calls import Call, ConstitutionRef, ConversationLike
from judge_service.errors import JudgeRequestError, JudgeUnavailable
from judge_service.server_info import ConstitutionSummary, ServerInfo
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    PromptPreview,
    Ranking,
    Score,
    Unjudged,
    Writing,
    WritingOptions,
)
from judge_service.v1 import judge_pb2 as pb

__all__ = ["AsyncJudgeClient", "JudgeClient", "JudgeRequestError", "JudgeUnavailable"]

_Result = TypeVar("_Result")


class JudgeClient(ClientBase):
    """A judge server, for ordinary code. Safe to use from several threads.

    Settings are those of `ClientBase`. `constitution` is a name, a digest, "" for the server's
    default, or a Constitution of your own, which needs a server with --allow-inline.
    """

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = self._connection.channel(grpc)
        self._stubs = stubs(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compare(
        self,
        conversation: ConversationLike,
        response_a: str,
        response_b: str,
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Judgment | Unjudged:
        """Judge which of two responses is better.

        A text too long for the judge is a JudgeRequestError that names the field.
        """
        call = calls.compare(conversation, response_a, response_b, constitution, options)
        return self._call(call, timeout)

    def rank(
        self,
        conversation: ConversationLike,
        candidates: Sequence[str],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Ranking:
        """Rank two or more responses, best first."""
        call = calls.rank(conversation, candidates, constitution, options)
        return self._call(call, timeout)

    def score(
        self,
        conversation: ConversationLike,
        response: str,
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Score | Unjudged:
        """Rate a single response, in [-1, 1]."""
        call = calls.score(conversation, response, constitution, options)
        return self._call(call, timeout)

    def critique(
        self,
        conversation: ConversationLike,
        response: str,
        constitution: ConstitutionRef = "",
        options: WritingOptions = RECOMMENDED_WRITING,
        *,
        timeout: float | None = None,
    ) -> Writing | Unjudged:
        """Criticize a response by one principle, in words."""
        call = calls.critique(conversation, response, constitution, options)
        return self._call(call, timeout)

    def revise(
        self,
        conversation: ConversationLike,
        response: str,
        critique: str,
        constitution: ConstitutionRef = "",
        options: WritingOptions = RECOMMENDED_WRITING,
        *,
        timeout: float | None = None,
    ) -> Writing | Unjudged:
        """Rewrite a response by one principle and a critique."""
        call = calls.revise(conversation, response, critique, constitution, options)
        return self._call(call, timeout)

    def preview(
        self,
        conversation: ConversationLike,
        response_a: str,
        response_b: str,
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> tuple[PromptPreview, ...]:
        """The prompts that `compare` would read, for each principle and order, without reading."""
        call = calls.preview(conversation, response_a, response_b, constitution, options)
        return self._call(call, timeout)

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        """Yields (id, judgment) as each finishes, in any order; the ids must be distinct.

        Takes from `comparisons` only as many as the server accepts. After a broken connection it
        resumes with those that are not answered yet, and raises JudgeUnavailable if the server
        stays away. A comparison that is refused, such as one with an empty conversation, is
        Unjudged with the reason; invalid options or an unknown constitution raise JudgeRequestError
        at once.
        """
        session = self._session(comparisons, constitution, options)
        while session.begin():
            # gRPC reads requests from the outbox in a thread of its own; None ends them.
            outbox: queue.SimpleQueue[pb.StreamJudgmentsRequest | None] = queue.SimpleQueue()
            call = self._stubs["StreamJudgments"](iter(outbox.get, None), metadata=self._metadata())
            broken: grpc.RpcError | None = None
            try:
                for response in call:
                    answers, requests = session.exchange(response)
                    for request in requests:
                        outbox.put(request)
                    if session.finished:
                        outbox.put(None)
                    yield from answers
            except grpc.RpcError as error:
                broken = error
            finally:
                outbox.put(None)
                call.cancel()
            if not session.finished:
                time.sleep(session.broken(broken))

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """The server's state, model, limits and constitutions; also while it is loading."""
        return self._call(calls.server_info(), timeout)

    def wait_until_ready(self, timeout: float = 600.0, progress: Progress | None = None) -> None:
        """Return once the server is serving. Raises JudgeUnavailable after `timeout` seconds."""
        waiting = Waiting(self.address, timeout, progress)
        while not waiting.is_over(self._probe()):
            time.sleep(POLL_SECONDS)

    def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        """The server's constitutions; the first is its default."""
        return self._call(calls.constitutions())

    def constitution(self, name: str = "") -> Constitution:
        """A constitution in full, by name or digest; "" for the server's default."""
        return self._call(calls.constitution(name))

    def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
        """Every problem that the server finds in a constitution's YAML; empty if it is valid."""
        return self._call(calls.validate_constitution(yaml, source))

    def _probe(self) -> ServerInfo | JudgeUnavailable:
        try:
            return self.server_info(timeout=PROBE_SECONDS)
        except JudgeUnavailable as error:
            return error

    def _call(self, call: Call[_Result], timeout: float | None = None) -> _Result:
        stub = self._stubs[call.rpc]
        try:
            response = stub(
                call.request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise self._explain(error) from None
        return call.read(response)
