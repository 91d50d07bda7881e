"""Errors on the wire: ServiceError to google.rpc.Status on the server, and back in the client.

A status (AIP-193) carries ErrorInfo always, BadRequest for fields, and RetryInfo where a retry
helps. It travels in the trailer that `grpcio-status` reads.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from constitution.errors import UserError
from judge_service.errors import InternalError, JudgeRequestError, JudgeUnavailable, ServiceError
from judge_service.rpc import PACKAGE

DOMAIN = PACKAGE
DETAILS_TRAILER = "grpc-status-details-bin"

_log = logging.getLogger("judge_service")


def service_error(error: Exception) -> ServiceError:
    """The error as a caller may see it.

    An unexpected one becomes INTERNAL with an opaque id. The log has the id, the exception's type
    and its traceback, but not its text, which may quote a conversation.
    """
    if isinstance(error, ServiceError):
        return error
    while isinstance(error, ExceptionGroup):  # the first failure; the others followed from it
        error = error.exceptions[0]
    opaque = uuid.uuid4().hex[:12]
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    _log.error("internal error %s: %s at %s", opaque, type(error).__qualname__, places)
    return InternalError(f"internal error {opaque}; see the server's log for this id")


def to_status(error: ServiceError, request_id: str) -> status_pb2.Status:
    """The error as google.rpc.Status, with the details that the module describes."""
    status = status_pb2.Status(code=_code(error).value[0], message=str(error))
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={"request_id": request_id}
    )
    status.details.add().Pack(info)
    if error.fields:
        bad = error_details_pb2.BadRequest()
        for field, problems in error.fields.items():
            for problem in problems.splitlines():
                bad.field_violations.add(field=field, description=problem)
        status.details.add().Pack(bad)
    if error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        status.details.add().Pack(retry)
    return status


async def abort(context: Any, error: ServiceError, request_id: str) -> None:
    """End the call of a grpc.aio context with this error. Raises grpc.aio.AbortError."""
    status = to_status(error, request_id).SerializeToString()
    await context.abort(_code(error), str(error), ((DETAILS_TRAILER, status),))


def _code(error: ServiceError) -> Any:
    return grpc.StatusCode[error.code]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as the caller sees it."""

    code: Any  # grpc.StatusCode
    message: str
    reason: str  # "" when the error did not come from a judge server
    fields: dict[str, str]
    retryable: bool  # a retry may help

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Failure:
        """The failure that a google.rpc.Status describes, of a call or of a stream's item."""
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        for detail in status.details:
            for message in (info, bad, retry):
                if detail.Is(message.DESCRIPTOR):
                    detail.Unpack(message)
        fields: dict[str, list[str]] = {}
        for violation in bad.field_violations:
            fields.setdefault(violation.field, []).append(violation.description)
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        return cls(
            code=code,
            message=status.message,
            reason=info.reason,
            fields={field: "\n".join(problems) for field, problems in fields.items()},
            retryable=retry.HasField("retry_delay") or code is grpc.StatusCode.UNAVAILABLE,
        )

    @classmethod
    def from_rpc_error(cls, error: Any) -> Failure:
        """The failure of a grpc.RpcError, sync or aio, also without our servers' details."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_TRAILER:
                try:
                    return cls.from_status(status_pb2.Status.FromString(value))
                except DecodeError:
                    break
        code = error.code()
        return cls(code, error.details() or "", "", {}, code is grpc.StatusCode.UNAVAILABLE)

    def explain(self, address: str) -> UserError:
        """The exception for the user: what failed, where, and the remedy."""
        codes = grpc.StatusCode
        if self.code in (codes.INVALID_ARGUMENT, codes.NOT_FOUND, codes.FAILED_PRECONDITION):
            return JudgeRequestError(self.message, self.fields)
        if self.code is codes.RESOURCE_EXHAUSTED and not self.retryable:  # from gRPC itself
            return JudgeRequestError(f"message too large for {address}: {self.message}")
        if self.code is codes.UNAUTHENTICATED:
            return JudgeRequestError(
                f"{address} refuses this caller: {self.message}; give a token that its operator "
                "made with `rlaif token new` (token=, --token or RLAIF_TOKEN)"
            )
        if self.code is codes.PERMISSION_DENIED:
            return JudgeRequestError(
                f"{address} refuses this call: {self.message}; ask its operator for the scope, "
                "or give another token (token=, --token or RLAIF_TOKEN)"
            )
        if self.code is codes.UNIMPLEMENTED:
            return JudgeRequestError(
                f"{address} does not have this call; check that a judge server of this version "
                "runs there"
            )
        if self.code is codes.DEADLINE_EXCEEDED:
            return JudgeUnavailable(
                f"the judge at {address} did not answer in time; give it longer (timeout=)"
            )
        if self.reason:  # the answer of a judge server
            return JudgeUnavailable(f"the judge at {address} answers: {self.message}")
        why = self.message.rpartition("last error: ")[2] or self.code.name
        remedy = "start one with `rlaif serve`, or check the address"
        if "andshake" in why or "Socket closed" in why:
            remedy += "; if one runs there, check TLS (ca=, certificate=, key=)"
        return JudgeUnavailable(f"no judge answers at {address} ({why}); {remedy}")
