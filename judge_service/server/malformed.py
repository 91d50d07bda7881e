"""Bytes that are no request: told to their caller as INVALID_ARGUMENT, like any other mistake.

gRPC itself would call them an internal error, without details, and end a stream for one bad item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from judge_service.errors import InvalidRequest

_Request = TypeVar("_Request")


class MalformedRequest:
    """Stands where the request would stand."""


def reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The same, with MalformedRequest for bytes that are not the message."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return MalformedRequest()

    return read


def require_wellformed(request: _Request | MalformedRequest) -> _Request:
    """The request. Raises InvalidRequest where there is none."""
    if isinstance(request, MalformedRequest):
        raise InvalidRequest(
            "request",
            "its bytes are not this call's message: broken protobuf, or text that is not UTF-8",
            reason="UNREADABLE",
        )
    return request
