"""The asyncio client of a judge server; `judge_service.client.sync` documents the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from constitution.errors import Diagnostic
from constitution.schema import Constitution
from judge_service.client import calls
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
    """`JudgeClient` for asyncio: the same calls, awaited. Create it inside the running loop."""

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = self._connection.channel(grpc.aio)
        self._stubs = stubs(self._channel)

    async def close(self) -> None:
        await self._channel.close()

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
        call = calls.preview(conversation, response_a, response_b, constitution, options)
        return await self._call(call, timeout)

    async def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: ConstitutionRef = "",
        options: JudgeOptions = RECOMMENDED,
    ) -> AsyncIterator[tuple[str, Judgment | Unjudged]]:
        session = self._session(comparisons, constitution, options)
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
        return await self._call(calls.server_info(), timeout)

    async def wait_until_ready(
        self, timeout: float = 600.0, progress: Progress | None = None
    ) -> None:
        waiting = Waiting(self.address, timeout, progress)
        while not waiting.is_over(await self._probe()):
            await asyncio.sleep(POLL_SECONDS)

    async def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        return await self._call(calls.constitutions())

    async def constitution(self, name: str = "") -> Constitution:
        return await self._call(calls.constitution(name))

    async def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
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
