"""The asyncio client of a judge server; `judge_service.client.sync` documents the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from constitution.errors import Diagnostic
from constitution.schema import Constitution
from judge_service.client import calls
from judge_service.client.balanced_aio import balanced
from judge_service.client.base import (
    INFO_SECONDS,
    POLL_SECONDS,
    PROBE_SECONDS,
    RECOMMENDED,
    RECOMMENDED_WRITING,
    ClientBase,
    Progress,
    Replica,
    Waiting,
    stubs,
)
from judge_service.client.calls import Call, ConstitutionRef, ConversationLike
from judge_service.errors import JudgeUnavailable
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

_Result = TypeVar("_Result")


class AsyncJudgeClient(ClientBase):
    """Asyncio client of a judge server. Create it inside the running event loop.

        async with AsyncJudgeClient("127.0.0.1:50051") as judge:
            judgment = await judge.compare("Name a fruit", "An apple.", "A stone.", timeout=30)

    address, settings: those of `ClientBase`. The calls are those of `JudgeClient`, with the same
    arguments and results, and may run concurrently. `timeout` counts the whole call in seconds:
    connecting, retries, waiting in the server and judging; None takes the client's. Cancelling a
    call aborts its work in the server.

    Every call raises JudgeRequestError when it is refused (a retry does not help), and
    JudgeUnavailable when the server gives no answer in time (a retry may help).
    """

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = self._connection.channel(grpc.aio)
        self._stubs = stubs(self._channel)
        self._replicas = self._open_replicas(grpc.aio)

    async def close(self) -> None:
        """Close the connection and cancel calls in progress; the end of `async with` does so."""
        for each in (self._channel, *(replica.channel for replica in self._replicas)):
            await each.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def compare(
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

            judgment = await judge.compare("Name a fruit", "An apple.", "A stone.")

        Returns Unjudged when the judge abstains, such as for an empty response. Raises
        JudgeRequestError, whose `fields` name the argument, for a text too long for the judge,
        invalid options or an unknown constitution; JudgeUnavailable without an answer in `timeout`
        seconds.
        """
        call = calls.compare(conversation, response_a, response_b, constitution, options)
        return await self._call(call, timeout)

    async def rank(
        self,
        conversation: ConversationLike,
        candidates: Sequence[str],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Ranking:
        """Rank two or more responses by Bradley-Terry strength, best first.

            ranking = await judge.rank("Name a fruit", ["A stone.", "An apple.", "A pear."])
            best = ranking.candidates[0].index

        candidates: 2 up to the server's `max_candidates`. A pair that cannot be judged is Unjudged
        in `Ranking.pairs`; a candidate without a judged pair is not ranked. Raises
        JudgeRequestError and JudgeUnavailable.
        """
        call = calls.rank(conversation, candidates, constitution, options)
        return await self._call(call, timeout)

    async def score(
        self,
        conversation: ConversationLike,
        response: str,
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Score | Unjudged:
        """Rate a single response: the expected rating, from -1 (worst) to 1 (best).

            score = await judge.score("Name a fruit", "An apple.")

        Of the options `sample_principles`, `seed`, `min_label_mass`, `use_store` and `interactive`
        apply. Returns and raises as `compare` does.
        """
        call = calls.score(conversation, response, constitution, options)
        return await self._call(call, timeout)

    async def critique(
        self,
        conversation: ConversationLike,
        response: str,
        constitution: ConstitutionRef = "",
        options: WritingOptions = RECOMMENDED_WRITING,
        *,
        timeout: float | None = None,
    ) -> Writing | Unjudged:
        """Criticize a response by one principle, in words.

            critique = await judge.critique("Name a fruit", "A stone.")

        The principle is `options.principle_id`; by default one that applies, drawn with the seed.
        Returns Unjudged for an empty response, or when no principle applies. Raises
        JudgeRequestError, also for a principle that the constitution lacks; JudgeUnavailable.
        """
        call = calls.critique(conversation, response, constitution, options)
        return await self._call(call, timeout)

    async def revise(
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

            critique = await judge.critique("Name a fruit", "A stone.")
            options = WritingOptions(principle_id=critique.principle_id)
            revised = await judge.revise("Name a fruit", "A stone.", critique.text, options=options)

        critique: the text of `critique`, whose principle the options must name, or one of your own.
        Returns and raises as `critique` does; an empty critique is a JudgeRequestError.
        """
        call = calls.revise(conversation, response, critique, constitution, options)
        return await self._call(call, timeout)

    async def preview(
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

            prompts = await judge.preview("Name a fruit", "An apple.", "A stone.")

        Text with the control tokens spelled out, token count and digest of each; the model is not
        asked. Raises as `compare` does; a response may be empty.
        """
        call = calls.preview(conversation, response_a, response_b, constitution, options)
        return await self._call(call, timeout)

    async def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
    ) -> AsyncIterator[tuple[str, Judgment | Unjudged]]:
        """Judge any number of comparisons; yields (id, judgment) as each finishes, in any order.

            question = (Message(role="user", content="Name a fruit"),)
            pairs = [Comparison(f"{n}", question, "An apple.", "A stone.") for n in range(3)]
            async for id, judgment in judge.stream(pairs):
                print(id, judgment)

        comparisons: with distinct ids of 1 to 1024 characters. They are taken one by one on the
        event loop, which a slow iterable blocks. Answers, resuming and errors as in
        `JudgeClient.stream`: the whole has no time limit, and the client's `reconnect_seconds`
        bounds a break.
        """
        source = self._requests(comparisons, constitution, options)
        if self._replicas:
            together = balanced(self._balanced(source), self._replicas, self._metadata)
            async with aclosing(together):
                async for answer in together:
                    yield answer
            return
        session = self._session(source)
        while session.begin():
            call = self._stubs["StreamJudgments"](metadata=self._metadata())
            broken: grpc.RpcError | None = None
            try:
                async for response in call:
                    answers, requests = session.exchange(response)
                    # A failed write must not lose the answers; the next read reports its cause.
                    with suppress(asyncio.InvalidStateError, grpc.RpcError):
                        for request in requests:
                            await call.write(request)
                        if session.finished:
                            await call.done_writing()
                    for answer in answers:
                        yield answer
            except grpc.RpcError as error:
                broken = error
            finally:
                call.cancel()
            if not session.finished:
                await asyncio.sleep(session.broken(broken))

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """The server's state, model, limits and constitutions; answered also while it loads.

            info = await judge.server_info(timeout=2)

        Of several listed servers it asks all, as `JudgeClient.server_info` does.

        Raises JudgeUnavailable where no server answers, JudgeRequestError for a missing token, and
        for servers that are not the same judge.
        """
        call = calls.server_info()
        if not self._replicas:
            return await self._call(call, timeout)
        limit = min(self._timeout, INFO_SECONDS) if timeout is None else timeout

        async def ask(replica: Replica) -> Any:
            stub = replica.stubs[call.rpc]
            try:
                return call.read(await stub(call.request, timeout=limit, metadata=self._metadata()))
            except grpc.RpcError as error:
                return error

        answers = await asyncio.gather(*map(ask, self._replicas))
        addresses = [replica.address for replica in self._replicas]
        return self._together(dict(zip(addresses, answers, strict=True)))

    async def wait_until_ready(
        self, timeout: float = 600.0, progress: Progress | None = None
    ) -> None:
        """Return once the server is serving, as after starting it: loading a model takes minutes.

            await judge.wait_until_ready(60, progress=lambda state, seconds: print(state))

        timeout: seconds from this call on. progress: called after each attempt with the state in
        words and the seconds waited. Raises JudgeUnavailable when the time is up or the engine has
        failed, JudgeRequestError when the server refuses this client.
        """
        waiting = Waiting(self.address, timeout, progress)
        while not waiting.is_over(await self._probe()):
            await asyncio.sleep(POLL_SECONDS)

    async def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        """Name, version and digest of the server's constitutions; the first is its default.

        The time limit is the client's `timeout`. Raises JudgeRequestError and JudgeUnavailable.
        """
        return await self._call(calls.constitutions())

    async def constitution(self, name: str = "") -> Constitution:
        """A constitution in full, by name or digest; "" for the server's default.

        The time limit is the client's `timeout`. Raises JudgeRequestError for one that the server
        does not have, JudgeUnavailable.
        """
        return await self._call(calls.constitution(name))

    async def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
        """Every problem that the server finds in a constitution's YAML; empty if it is valid.

        source: a name for the text in the diagnostics, such as its file's; up to 1024 characters.
        The server does not keep the text. Raises JudgeRequestError and JudgeUnavailable.
        """
        return await self._call(calls.validate_constitution(yaml, source))

    async def _probe(self) -> ServerInfo | JudgeUnavailable:
        try:
            return await self.server_info(timeout=PROBE_SECONDS)
        except JudgeUnavailable as error:
            return error

    async def _call(self, call: Call[_Result], timeout: float | None = None) -> _Result:
        stub = self._stubs[call.rpc]
        try:
            response = await stub(
                call.request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise self._explain(error) from None
        return call.read(response)
