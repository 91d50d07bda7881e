"""Requests are read off the wire only after their call is admitted.

gRPC reads the message of a unary call before its handler runs, so a caller that is not admitted
could make the server hold any number of bodies, finished or not. To gRPC every call of ours is
therefore one with a stream of requests, of which a unary one takes the first:

    headers ─► admission, token, quota ─► the message, within `seconds` ─► the method

Until then a call costs the transport's initial window, 64 KiB. On the wire both kinds are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from judge_service.errors import DeadlinePassed, InvalidRequest
from judge_service.rpc import Behavior, find_rpc, is_ours
from judge_service.server.malformed import input_type, reader, require_wellformed
from judge_service.wire.requests import is_request_id


class IncomingRequest:
    """The request of one unary call, not read yet.

    context: the call's, of grpc.aio. seconds: within which the message must have arrived.
    check: called with the request once it is read; what it raises ends the call.
    """

    def __init__(self, context: Any, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self.request_id = ""  # the caller's, once the request is read
        self.check: Callable[[Any], None] = lambda request: None

    async def read(self) -> Any:
        """The request. Raises InvalidRequest, and DeadlinePassed when it comes too slowly."""
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._context.read()
        except TimeoutError:
            raise DeadlinePassed(
                f"the request did not arrive within {self._seconds:g} s; send it faster",
                reason="REQUEST_TOO_SLOW",
            ) from None
        if message is grpc.aio.EOF:
            raise InvalidRequest("request", "no message; send one", reason="UNREADABLE")
        request = require_wellformed(message)
        request_id = getattr(request, "request_id", "")
        self.request_id = request_id if is_request_id(request_id) else ""
        self.check(request)
        return request


class RequestReader(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """The innermost interceptor: methods that take a request take an IncomingRequest instead.

    max_entries: fields of one message, nested ones included, that are parsed; see malformed.py.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called by gRPC for every call: a handler that reads the request itself, if it is ours."""
        handler = await continuation(details)
        if handler is None or not is_ours(details.method):
            return handler
        kind = input_type(details.method)
        deserialize = reader(handler.request_deserializer, kind, self._max_entries)
        if find_rpc(details.method).streaming:
            return grpc.stream_stream_rpc_method_handler(
                handler.stream_stream, deserialize, handler.response_serializer
            )
        behavior: Behavior = handler.unary_unary

        async def read_first(incoming: IncomingRequest, context: Any) -> Any:
            return await behavior(await incoming.read(), context)

        return grpc.stream_unary_rpc_method_handler(
            read_first, deserialize, handler.response_serializer
        )
