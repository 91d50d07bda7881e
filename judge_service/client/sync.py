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
from judge_service.client.balanced_sync import balanced
from judge_service.client.base import (
    INFO_SECONDS,
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
    """Synchronous client of a judge server. Safe to use from several threads.

        with JudgeClient("127.0.0.1:50051", token="rlaif_...", ca=Path("ca.pem")) as judge:
            judgment = judge.compare("Name a fruit", "An apple.", "A stone.", timeout=30)

    address, settings: those of `ClientBase`. The calls share these arguments:

    conversation: what the responses answer, oldest message first; a string is one user turn.
    constitution: a name or digest that the server knows, "" for its default, or a Constitution of
    your own, which needs a server with --allow-inline.
    options: what to compute and how. The defaults are recommended.
    timeout: seconds for the whole call: connecting, retries, waiting in the server and judging.
    None takes the client's `timeout`.

    Every call raises JudgeRequestError when it is refused (an invalid argument, an unknown token; a
    retry does not help), and JudgeUnavailable when the server gives no answer in time, is loading,
    overloaded or stopping (a retry may help). An abstention is a value, `Unjudged`, with its
    reason.
    """

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = self._connection.channel(grpc)
        self._stubs = stubs(self._channel)
        self._replicas = self._open_replicas(grpc)

    def close(self) -> None:
        """Close the connection and cancel calls in progress; the end of a `with` block does so."""
        for each in (self._channel, *(replica.channel for replica in self._replicas)):
            each.close()

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
        """Judge which of two responses is better: P(response A is better), and the evidence.

        >>> judgment = judge.compare("Name a fruit", "An apple, or a pear.", "A stone.")
        >>> judgment.verdict, round(judgment.prob_a, 2)
        (<Verdict.A: 'A'>, 0.91)

        Costs a read per principle and order, so two per principle with the default options. With
        both orders, swapping the responses gives 1 - prob_a.

        Returns Unjudged when the judge abstains, such as for an empty response. Raises
        JudgeRequestError, whose `fields` name the argument, for a text too long for the judge,
        invalid options or an unknown constitution; JudgeUnavailable without an answer in `timeout`
        seconds.
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
        """Rank two or more responses by Bradley-Terry strength, best first.

        >>> ranking = judge.rank("Name a fruit", ["A stone.", "An apple, or a pear.", "An apple."])
        >>> [candidate.index for candidate in ranking.candidates]
        [1, 2, 0]

        candidates: 2 up to the server's `max_candidates`. Up to 8 are compared in all pairs, more
        in a sparse set of pairs drawn with `options.seed`; each pair costs what `compare` costs.

        A pair that cannot be judged, also for its length, is Unjudged in `Ranking.pairs`; a
        candidate without a judged pair is not ranked. Raises JudgeRequestError and
        JudgeUnavailable.
        """
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
        """Rate a single response: the expected rating, from -1 (worst) to 1 (best).

        >>> round(judge.score("Name a fruit", "An apple, or a pear.").score, 2)
        0.33

        Costs one read per principle. Of the options `sample_principles`, `seed`, `min_label_mass`,
        `use_store` and `interactive` apply. Returns and raises as `compare` does.
        """
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
        """Criticize a response by one principle, in words.

        >>> critique = judge.critique("Name a fruit", "A stone.")

        The principle is `options.principle_id`; by default one that applies, drawn with the seed:
        `Writing.principle_id` names it. `complete` is False when `max_tokens` cut the text.

        Returns Unjudged for an empty response, or when no principle applies. Raises
        JudgeRequestError, also for a principle that the constitution lacks; JudgeUnavailable.
        """
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
        """Rewrite a response so that a critique of it no longer applies.

        >>> options = WritingOptions(principle_id=critique.principle_id)
        >>> revision = judge.revise("Name a fruit", "A stone.", critique.text, options=options)

        critique: the text of `critique`, whose principle the options must name, or one of your own.
        Returns and raises as `critique` does; an empty critique is a JudgeRequestError.
        """
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
        """The prompts that `compare` would read, one for each principle and order.

        >>> prompts = judge.preview("Name a fruit", "An apple.", "A stone.")
        >>> [prompt.order.value for prompt in prompts[:2]]
        ['AB', 'BA']

        Text with the control tokens spelled out, token count and digest of each; the model is not
        asked. Raises as `compare` does; a response may be empty.
        """
        call = calls.preview(conversation, response_a, response_b, constitution, options)
        return self._call(call, timeout)

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        """Judge any number of comparisons; yields (id, judgment) as each finishes, in any order.

        >>> question = (Message(role="user", content="Name a fruit"),)
        >>> pairs = [Comparison(f"{n}", question, "An apple.", "A stone.") for n in range(3)]
        >>> sorted(id for id, judgment in judge.stream(pairs))
        ['0', '1', '2']

        comparisons: with distinct ids of 1 to 1024 characters. They are taken one by one, only as
        many as the server accepts, so a generator of millions is fine. For bulk work set
        `options.interactive` to False.

        A comparison that is refused, too long or lost to a failing engine is Unjudged with the
        reason. After a broken connection the stream resumes with the unanswered ones. The whole has
        no time limit: raises JudgeUnavailable after a break of the client's `reconnect_seconds`,
        and JudgeRequestError at once for invalid options or an unknown constitution.

        Several listed servers all work: each takes what it has room for, and what one that stops
        had not answered goes to the others (`judge_service.client.balanced_stream`). Servers that
        are not the same judge are a JudgeRequestError, before anything is asked of the second.
        """
        source = self._requests(comparisons, constitution, options)
        if self._replicas:
            yield from balanced(self._balanced(source), self._replicas, self._metadata)
            return
        session = self._session(source)
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
        """The server's state, model, limits and constitutions; answered also while it loads.

        >>> judge.server_info().state
        <ServerState.SERVING: 'serving'>

        Of several listed servers it asks all and returns the info of one that serves, if any does.

        Raises JudgeUnavailable where no server answers, JudgeRequestError for a missing token, and
        for servers that are not the same judge.
        """
        call = calls.server_info()
        if not self._replicas:
            return self._call(call, timeout)
        limit = min(self._timeout, INFO_SECONDS) if timeout is None else timeout
        asked = {
            each.address: each.stubs[call.rpc].future(
                call.request, timeout=limit, metadata=self._metadata()
            )
            for each in self._replicas
        }
        infos: dict[str, Any] = {}
        for address, future in asked.items():
            try:
                infos[address] = call.read(future.result())
            except grpc.RpcError as error:
                infos[address] = error
        return self._together(infos)

    def wait_until_ready(self, timeout: float = 600.0, progress: Progress | None = None) -> None:
        """Return once the server is serving, as after starting it: loading a model takes minutes.

        >>> judge.wait_until_ready(60, progress=lambda state, seconds: print(state))

        timeout: seconds from this call on. progress: called after each attempt with the state in
        words and the seconds waited. Raises JudgeUnavailable when the time is up or the engine has
        failed, JudgeRequestError when the server refuses this client.
        """
        waiting = Waiting(self.address, timeout, progress)
        while not waiting.is_over(self._probe()):
            time.sleep(POLL_SECONDS)

    def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        """Name, version and digest of the server's constitutions; the first is its default.

        The time limit is the client's `timeout`. Raises JudgeRequestError and JudgeUnavailable.
        """
        return self._call(calls.constitutions())

    def constitution(self, name: str = "") -> Constitution:
        """A constitution in full, by name or digest; "" for the server's default.

        The time limit is the client's `timeout`. Raises JudgeRequestError for one that the server
        does not have, JudgeUnavailable.
        """
        return self._call(calls.constitution(name))

    def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
        """Every problem that the server finds in a constitution's YAML; empty if it is valid.

        source: a name for the text in the diagnostics, such as its file's; up to 1024 characters.
        The server does not keep the text. Raises JudgeRequestError and JudgeUnavailable.
        """
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
