"""The interceptor of a server with tokens: checks each call's token, scope and quota.

When the file of tokens is reloaded, streams whose token was removed, or lacks the scope now, end
with the status that a new call would get; other calls in progress finish.

Runs inside CallGuard, which turns refusals into rich statuses; for other services, such as
reflection, this interceptor does so itself. Health is not checked.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from judge_service.errors import ServiceError
from judge_service.rpc import Behavior, is_ours
from judge_service.security.caller import admit, identify, require_scope
from judge_service.security.quotas import Quotas
from judge_service.security.tokens import Tokens
from judge_service.status import abort

_OPEN = "/grpc.health.v1.Health/"


@dataclass(eq=False, slots=True)
class _OpenStream:
    """A stream in progress; `refusal` is set when it is being ended."""

    task: asyncio.Task[Any]
    method: str
    metadata: Any
    refusal: ServiceError | None = None


class TokenGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Admits calls whose token has the scope and is within its quota.

    tokens: the file of tokens, which `reload` reads again. max_concurrent: calls of any one token.
    """

    def __init__(self, tokens: Tokens, max_concurrent: int) -> None:
        self.tokens = tokens
        self._quotas = Quotas(max_concurrent)
        self._streams: set[_OpenStream] = set()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called by gRPC for every call: its handler with the checks around it; health has none."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        own = is_ours(details.method)  # our unary calls read their request themselves
        streams = handler.response_streaming or (handler.request_streaming and not own)
        return around(handler, details.method, self._stream if streams else self._call)

    def reload(self) -> tuple[str, ...]:
        """Reload the tokens, and end the streams of those that were revoked.

        Returns the problems of the file, as lines for the log.
        """
        problems = self.tokens.reload()
        for stream in self._streams:
            try:
                require_scope(identify(self.tokens, stream.metadata), stream.method)
            except ServiceError as refusal:
                if stream.refusal is None:
                    stream.refusal = refusal
                    stream.task.cancel()
        return problems

    async def _stream(self, method: str, behavior: Behavior, request: Any, context: Any) -> Any:
        async def revocable(request: Any, context: Any) -> Any:
            with self._revocable(method, context.invocation_metadata()):
                return await behavior(request, context)

        return await self._call(method, revocable, request, context)

    @contextmanager
    def _revocable(self, method: str, metadata: Any) -> Iterator[None]:
        """Around a stream: one that `reload` cancels fails with its refusal instead."""
        task = asyncio.current_task()
        assert task is not None
        stream = _OpenStream(task, method, metadata)
        self._streams.add(stream)
        try:
            yield
        except (asyncio.CancelledError, Exception):
            if stream.refusal is None:
                raise
            task.uncancel()
            raise stream.refusal from None
        finally:
            self._streams.discard(stream)

    async def _call(self, method: str, behavior: Behavior, request: Any, context: Any) -> Any:
        try:
            token = admit(self.tokens, method, context.invocation_metadata())

            async def each_item() -> None:
                # The file may have changed the token's quota since the stream began.
                current = admit(self.tokens, method, context.invocation_metadata())
                await self._quotas.await_item(current)

            with self._quotas.call(token, method):
                return await behavior(request, _EachItem(context, each_item))
        except ServiceError as error:
            if is_ours(method):
                raise
            await abort(context, error, "")


class _EachItem:
    """A stream's context that admits each item like a call, once the quota allows it."""

    def __init__(self, context: Any, admit_item: Callable[[], Awaitable[None]]) -> None:
        self._context = context
        self._admit_item = admit_item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            await self._admit_item()
        return message


def around(
    handler: Any, method: str, call: Callable[[str, Behavior, Any, Any], Awaitable[Any]]
) -> Any:
    """A handler of the same kind (gRPC has four) with `call` around its behavior."""
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    behavior = getattr(handler, name)

    async def plain(request: Any, context: Any) -> Any:
        """The behavior as a coroutine, also if it is a generator of responses."""
        if not inspect.isasyncgenfunction(behavior):
            return await behavior(request, context)
        async for response in behavior(request, context):
            await context.write(response)
        return None

    async def surrounded(request: Any, context: Any) -> Any:
        return await call(method, plain, request, context)

    return make(surrounded, handler.request_deserializer, handler.response_serializer)
