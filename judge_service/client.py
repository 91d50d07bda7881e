"""Ask a judge server. Imports grpcio, protobuf and pydantic: no torch, no vllm, no transformers.

    with JudgeClient("127.0.0.1:50051") as judge:
        found = judge.compare("Name a fruit", "An apple.", "A stone.", constitution="hhh")

What cannot be asked or answered is a `JudgeRequestError` (mend the request) or `JudgeUnavailable`
(start the server, or wait); both are UserErrors. What the judge looked at and could not label is
`Unjudged`, a value.

Channels do not survive fork: make the client in the process that uses it.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from constitution.errors import Diagnostic, UserError
from constitution.schema import Constitution, Message
from judge_service import wire, wire_constitution
from judge_service.connection import channel_options, target
from judge_service.errors import Failure, JudgeRequestError, JudgeUnavailable
from judge_service.judgment import (
    Comparison,
    Conversation,
    JudgeOptions,
    Judgment,
    Ranking,
    Unjudged,
)
from judge_service.resumable_stream import ResumableStream
from judge_service.server_info import ConstitutionSummary, ServerInfo, ServerState
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc

__all__ = ["AsyncJudgeClient", "JudgeClient", "JudgeRequestError", "JudgeUnavailable"]

DEFAULT_MAX_MESSAGE_BYTES = 4 * 2**20
"""The server's default too."""

_RECOMMENDED = JudgeOptions()
_POLL_SECONDS = 0.25
_PROBE_SECONDS = 2.0

_Request = TypeVar("_Request")

Progress = Callable[[str, float], None]
"""Called while waiting, with what is being waited for and the seconds waited."""


class _Settings:
    """What both clients are made of; everything but the calls themselves.

    address: host:port, or a gRPC target with its scheme. timeout: of one call, seconds; a stream
    has none. reconnect_seconds: how long a stream goes on without answers before it gives up.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 600.0,
        reconnect_seconds: float = 30.0,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._max_message_bytes = max_message_bytes
        self._target = target(address)
        self._options = channel_options(address, max_message_bytes)

    def _session(
        self, comparisons: Iterable[Comparison], constitution: str, options: JudgeOptions
    ) -> ResumableStream:
        return ResumableStream(
            comparisons,
            constitution,
            options,
            address=self.address,
            max_message_bytes=self._max_message_bytes,
            reconnect_seconds=self._reconnect_seconds,
        )

    def _explain(self, error: Any) -> UserError:
        return Failure.from_rpc_error(error).explain(self.address)


class JudgeClient(_Settings):
    """The judge for ordinary code. Safe to use from several threads. Arguments: see `_Settings`."""

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = grpc.insecure_channel(self._target, self._options)
        self._judge: Any = pb_grpc.JudgeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._laws: Any = pb_grpc.ConstitutionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compare(
        self,
        conversation: Conversation | str,
        response_a: str,
        response_b: str,
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Judgment | Unjudged:
        """Which of two responses is better. `constitution`: a name, a digest, "" for the default.

        A text too long for the judge is a JudgeRequestError that names the part.
        """
        request = _compare_request(conversation, response_a, response_b, constitution, options)
        response = self._call(self._judge.ComparePair, request, timeout)
        return wire.judgment_from_proto(response.judgment)

    def rank(
        self,
        conversation: Conversation | str,
        candidates: Sequence[str],
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Ranking:
        """Two or more responses by strength, best first."""
        request = _rank_request(conversation, candidates, constitution, options)
        response = self._call(self._judge.RankCandidates, request, timeout)
        return wire.ranking_from_proto(response.ranking)

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        """(id, what was found) as it is finished, in any order; the ids must be distinct.

        Takes from `comparisons` only what the server has room for. Goes on by itself after a broken
        connection, with what is not answered yet; raises JudgeUnavailable when the server stays
        away. Comparisons that are refused, such as an empty conversation, are left out, and named
        in a JudgeRequestError after all others are answered.
        """
        session = self._session(comparisons, constitution, options)
        while session.begin():
            outbox: queue.SimpleQueue[pb.StreamJudgmentsRequest | None] = queue.SimpleQueue()
            call = self._judge.StreamJudgments(iter(outbox.get, None))
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
        session.close()

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is; answers while it still loads."""
        response = self._call(self._judge.GetServerInfo, pb.GetServerInfoRequest(), timeout)
        return wire.server_info_from_proto(response)

    def wait_until_ready(self, timeout: float = 600.0, progress: Progress | None = None) -> None:
        """Return once the server serves. Raises JudgeUnavailable after `timeout` seconds."""
        waiting = _Waiting(self.address, timeout, progress)
        while not waiting.is_over(self._probe()):
            time.sleep(_POLL_SECONDS)

    def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        """Those the server judges by; the first is its default."""
        response = self._call(self._laws.ListConstitutions, pb.ListConstitutionsRequest())
        return tuple(map(wire_constitution.summary_from_proto, response.constitutions))

    def constitution(self, name: str = "") -> Constitution:
        """One in full, by name or digest; "" for the server's default."""
        request = pb.GetConstitutionRequest(constitution=wire.constitution_ref(name))
        response = self._call(self._laws.GetConstitution, request)
        return wire_constitution.constitution_from_proto(response.constitution)

    def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
        """Every problem of a constitution's text, as the server sees it; none when it is usable."""
        request = _validate_request(yaml, source)
        response = self._call(self._laws.ValidateConstitution, request)
        return tuple(map(wire_constitution.diagnostic_from_proto, response.diagnostics))

    def _probe(self) -> ServerInfo | JudgeUnavailable:
        try:
            return self.server_info(timeout=_PROBE_SECONDS)
        except JudgeUnavailable as error:
            return error

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise self._explain(error) from None


class AsyncJudgeClient(_Settings):
    """`JudgeClient` for asyncio: the same calls, awaited. Make it inside the running loop."""

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._channel = grpc.aio.insecure_channel(self._target, self._options)
        self._judge: Any = pb_grpc.JudgeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._laws: Any = pb_grpc.ConstitutionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def compare(
        self,
        conversation: Conversation | str,
        response_a: str,
        response_b: str,
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Judgment | Unjudged:
        request = _compare_request(conversation, response_a, response_b, constitution, options)
        response = await self._call(self._judge.ComparePair, request, timeout)
        return wire.judgment_from_proto(response.judgment)

    async def rank(
        self,
        conversation: Conversation | str,
        candidates: Sequence[str],
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
        *,
        timeout: float | None = None,
    ) -> Ranking:
        request = _rank_request(conversation, candidates, constitution, options)
        response = await self._call(self._judge.RankCandidates, request, timeout)
        return wire.ranking_from_proto(response.ranking)

    async def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str = "",
        options: JudgeOptions = _RECOMMENDED,
    ) -> AsyncIterator[tuple[str, Judgment | Unjudged]]:
        session = self._session(comparisons, constitution, options)
        while session.begin():
            call = self._judge.StreamJudgments()
            broken: grpc.RpcError | None = None
            try:
                async for response in call:
                    answers, requests = session.exchange(response)
                    # A write that fails must not lose the answers; reading on says why it did.
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
        session.close()

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        response = await self._call(self._judge.GetServerInfo, pb.GetServerInfoRequest(), timeout)
        return wire.server_info_from_proto(response)

    async def wait_until_ready(
        self, timeout: float = 600.0, progress: Progress | None = None
    ) -> None:
        waiting = _Waiting(self.address, timeout, progress)
        while not waiting.is_over(await self._probe()):
            await asyncio.sleep(_POLL_SECONDS)

    async def constitutions(self) -> tuple[ConstitutionSummary, ...]:
        response = await self._call(self._laws.ListConstitutions, pb.ListConstitutionsRequest())
        return tuple(map(wire_constitution.summary_from_proto, response.constitutions))

    async def constitution(self, name: str = "") -> Constitution:
        request = pb.GetConstitutionRequest(constitution=wire.constitution_ref(name))
        response = await self._call(self._laws.GetConstitution, request)
        return wire_constitution.constitution_from_proto(response.constitution)

    async def validate_constitution(self, yaml: str, source: str = "") -> tuple[Diagnostic, ...]:
        request = _validate_request(yaml, source)
        response = await self._call(self._laws.ValidateConstitution, request)
        return tuple(map(wire_constitution.diagnostic_from_proto, response.diagnostics))

    async def _probe(self) -> ServerInfo | JudgeUnavailable:
        try:
            return await self.server_info(timeout=_PROBE_SECONDS)
        except JudgeUnavailable as error:
            return error

    async def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        try:
            return await method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise self._explain(error) from None


class _Waiting:
    """Decides, probe by probe, whether waiting for a server is over."""

    def __init__(self, address: str, timeout: float, progress: Progress | None) -> None:
        self._address = address
        self._timeout = timeout
        self._progress = progress
        self._started = time.monotonic()

    def is_over(self, found: ServerInfo | JudgeUnavailable) -> bool:
        """Raises JudgeUnavailable when the server failed or the time is up."""
        if isinstance(found, JudgeUnavailable):
            state, problem = f"no judge answers at {self._address} yet", str(found)
        elif found.state is ServerState.SERVING:
            return True
        else:
            state = problem = f"the judge at {self._address} is {found.state}"
            if found.state is ServerState.FAILED:
                raise JudgeUnavailable(f"{state}: its engine died; restart it and see its log")
        waited = time.monotonic() - self._started
        if waited >= self._timeout:
            raise JudgeUnavailable(f"{problem} (waited {waited:.0f} s)")
        if self._progress is not None:
            self._progress(state, waited)
        return False


def _compare_request(
    conversation: Conversation | str,
    response_a: str,
    response_b: str,
    constitution: str,
    options: JudgeOptions,
) -> pb.ComparePairRequest:
    comparison = Comparison("", _conversation(conversation), response_a, response_b)
    return _sendable(lambda: wire.compare_request(comparison, constitution, options))


def _rank_request(
    conversation: Conversation | str,
    candidates: Sequence[str],
    constitution: str,
    options: JudgeOptions,
) -> pb.RankCandidatesRequest:
    turns = _conversation(conversation)
    return _sendable(lambda: wire.rank_request(turns, candidates, constitution, options))


def _validate_request(yaml: str, source: str) -> pb.ValidateConstitutionRequest:
    return _sendable(lambda: pb.ValidateConstitutionRequest(yaml=yaml, source=source))


def _conversation(conversation: Conversation | str) -> Conversation:
    if isinstance(conversation, str):
        return (Message(role="user", content=conversation),)
    return conversation


def _sendable(build: Callable[[], _Request]) -> _Request:
    """What protobuf cannot carry (a lone surrogate, a number too large) is the caller's mistake."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise JudgeRequestError(f"this request cannot be sent: {error}") from error
