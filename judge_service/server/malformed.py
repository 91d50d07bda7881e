"""Malformed request bytes are reported as INVALID_ARGUMENT, like any other caller error.

gRPC itself reports an internal error without details, and ends a stream for one malformed item.

A message of a few megabytes may hold a million empty turns, each a hundred times as large once it
is parsed. So the fields of a message are counted first, on its bytes, until there are too many.
Nor does a request hold more than its fields while it waits for the engine: unknown fields, and
earlier values of a field that was sent twice, are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from judge_service.errors import InvalidRequest
from judge_service.v1 import judge_pb2 as pb

_Request = TypeVar("_Request")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_SPARE_BYTES = 4096  # that a request may hold beside its fields


class MalformedRequest:
    """Takes the place of a request that cannot be parsed; `problem` says why, and what to do."""

    def __init__(
        self, problem: str = "malformed bytes: invalid protobuf for this call, or not UTF-8"
    ) -> None:
        self.problem = problem


def input_type(method: str) -> Any:
    """The descriptor of the request of one of our methods, given by its full name."""
    service, _, name = method.rpartition("/")
    services = pb.DESCRIPTOR.services_by_name
    return services[service.rpartition(".")[2]].methods_by_name[name].input_type


def reader(
    deserialize: Callable[[bytes], Any], kind: Any, max_entries: int
) -> Callable[[bytes], Any]:
    """A deserializer that returns MalformedRequest for bytes that cannot or may not be parsed.

    kind: the message's descriptor. max_entries: of fields and list elements, nested ones included.
    """

    def read(data: bytes) -> Any:
        if count_entries(data, kind, max_entries) > max_entries:
            return MalformedRequest(
                f"more than {max_entries} fields and list elements; send fewer messages or options"
            )
        try:
            return _compact(deserialize(data), len(data), deserialize)
        except DecodeError:
            return MalformedRequest()

    return read


def _compact(message: Any, size: int, deserialize: Callable[[bytes], Any]) -> Any:
    """The message parsed from `size` bytes, made anew if most of them are none of its fields.

    Discarding alone does not do: a message keeps all the memory that it was parsed into.
    """
    message.DiscardUnknownFields()
    if size - message.ByteSize() <= _SPARE_BYTES:
        return message
    return deserialize(message.SerializeToString())


def count_entries(data: bytes, kind: Any, most: int) -> int:
    """The number of fields and list elements in a message's bytes; counting ends beyond `most`.

    Bytes that are not a message are counted as far as they are one: parsing them fails anyway.
    """
    counted = 0
    parts = [(memoryview(data), kind)]
    while parts:
        rest, kind = parts.pop()
        at = 0
        while at < len(rest) and counted <= most:
            counted += 1
            tag, at = _varint(rest, at)
            wire, field = tag & 7, kind.fields_by_number.get(tag >> 3)
            if wire == _VARINT:
                _, at = _varint(rest, at)
            elif wire == _FIXED64:
                at += 8
            elif wire == _FIXED32:
                at += 4
            elif wire == _BYTES:
                size, at = _varint(rest, at)
                if field is not None and field.message_type is not None:
                    parts.append((rest[at : at + size], field.message_type))
                elif field is not None and field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
                    counted += size  # a packed list: at least a byte for each element
                at += size
    return counted


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, place after it) of a varint; the end of the data ends it too."""
    value = shift = 0
    for byte in data[at : at + _LONGEST_VARINT]:
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at


def require_wellformed(request: _Request | MalformedRequest) -> _Request:
    """The request itself. Raises InvalidRequest for a malformed one."""
    if isinstance(request, MalformedRequest):
        raise InvalidRequest("request", request.problem, reason="UNREADABLE")
    return request
