"""Malformed request bytes are reported as INVALID_ARGUMENT, like any other caller error.

gRPC itself reports an internal error without details, and ends a stream for one malformed item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from judge_service.errors import InvalidRequest

_Request = TypeVar("_Request")


class MalformedRequest:
    """Takes the place of a request that cannot be parsed."""


def reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that returns MalformedRequest for bytes that cannot be parsed."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return MalformedRequest()

    return read


def require_wellformed(request: _Request | MalformedRequest) -> _Request:
    """The request itself. Raises InvalidRequest for a malformed one."""
    if isinstance(request, MalformedRequest):
        raise InvalidRequest(
            "request",
            "malformed bytes: invalid protobuf for this call, or text that is not UTF-8",
            reason="UNREADABLE",
        )
    return request
