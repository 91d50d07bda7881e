"""The gate that every call passes where there are tokens: its token, its scope, its quota.

Stands inside CallGuard, which turns what is refused into a rich status; around other services, such
as reflection, the gate does so itself. Health passes untouched.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from judge_service.auth import admit
from judge_service.errors import ServiceError
from judge_service.interceptors import OURS, Behaviour, abort
from judge_service.quotas import Quotas
from judge_service.tokens import Tokens

_OPEN = "/grpc.health.v1.Health/"


class TokenGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls through whose token has the scope, and within the token's quota."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._quotas = Quotas()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        return _around(handler, details.method, self._call)

    async def _call(self, method: str, behaviour: Behaviour, request: Any, context: Any) -> Any:
        try:
            token = admit(self._tokens, method, context.invocation_metadata())

            async def each_item() -> None:
                # Its token may have been taken out of the file since the stream began.
                now = admit(self._tokens, method, context.invocation_metadata())
                await self._quotas.turn(now)

            with self._quotas.call(token, method):
                return await behaviour(request, _EachItem(context, each_item))
        except ServiceError as error:
            if method.startswith(OURS):
                raise
            await abort(context, error, "")


class _EachItem:
    """A stream's context, each item of which is admitted like a call, when it is its turn.

    So a token that is taken out of the file ends its streams too.
    """

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


def _around(
    handler: Any, method: str, call: Callable[[str, Behaviour, Any, Any], Awaitable[Any]]
) -> Any:
    """The handler with `call` around its behaviour, of whichever of gRPC's four kinds it is."""
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = getattr(handler, name)

    async def plain(request: Any, context: Any) -> Any:
        """The behaviour as a coroutine, also where it is a generator of responses."""
        if not inspect.isasyncgenfunction(behaviour):
            return await behaviour(request, context)
        async for response in behaviour(request, context):
            await context.write(response)
        return None

    async def surrounded(request: Any, context: Any) -> Any:
        return await call(method, plain, request, context)

    return make(surrounded, handler.request_deserializer, handler.response_serializer)
