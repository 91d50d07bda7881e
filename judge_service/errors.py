"""Errors of the judge service on the server and on the client, and their form in gRPC.

    UserError                       (constitution.errors) shown as one message, without traceback
    ├─ ServerStartError             server: it cannot start with these settings
    ├─ EngineLost                   server: the engine died while serving
    ├─ JudgeUnavailable             client: no judge answers; a later retry may succeed
    └─ JudgeRequestError            client: the request is rejected; a retry will not help
    ServiceError                    server: the error of an RPC
    ├─ InvalidRequest               INVALID_ARGUMENT, names the field
    ├─ NotAllowed                   FAILED_PRECONDITION: this server is not configured for it
    ├─ NotFound                     NOT_FOUND
    ├─ Unavailable                  UNAVAILABLE, with the time to retry
    ├─ Overloaded                   RESOURCE_EXHAUSTED, with the time to retry
    ├─ Unauthenticated              UNAUTHENTICATED: missing or unknown token
    ├─ PermissionDenied             PERMISSION_DENIED: the token lacks a scope
    ├─ DeadlinePassed               DEADLINE_EXCEEDED
    └─ InternalError                INTERNAL, with an opaque id and nothing else

An RPC error is a google.rpc.Status (AIP-193): ErrorInfo always, BadRequest for fields, RetryInfo
when a retry helps. It is sent in the trailer that `grpcio-status` reads.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from constitution.errors import UserError

DOMAIN = "judge_service.v1"
DETAILS_TRAILER = "grpc-status-details-bin"

_log = logging.getLogger("judge_service")


class ServerStartError(UserError):
    """The server cannot start: a port in use, an insecure address, an invalid setting."""


class EngineLost(UserError):  # noqa: N818
    """The engine died while serving and cannot recover; the process exits with this error."""


class JudgeUnavailable(UserError):  # noqa: N818  the name is part of the client's interface
    """No judge answers now. Names the address and the remedy; earlier results stay valid."""


class JudgeRequestError(UserError):
    """The judge rejects this request. `fields` maps each invalid field to its problem."""

    def __init__(self, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}


class ServiceError(Exception):
    """The error of an RPC. Its message goes to the caller and never quotes a conversation.

    `fields` maps each invalid field to its problem, or to several, one per line.
    """

    code: ClassVar[Any]  # grpc.StatusCode
    default_reason: ClassVar[str]
    retry_seconds: float | None = None

    def __init__(
        self, message: str, *, reason: str = "", fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.fields = fields or {}


class InvalidRequest(ServiceError):  # noqa: N818  named after its status, like the others
    """A field of the request is invalid."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str, *, reason: str = "") -> None:
        super().__init__(f"{field}: {problem}", reason=reason, fields={field: problem})


class NotAllowed(ServiceError):  # noqa: N818
    """This server's configuration does not allow the request."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "NOT_ALLOWED"


class NotFound(ServiceError):  # noqa: N818
    """The named object does not exist on this server."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class Unavailable(ServiceError):  # noqa: N818
    """The server cannot answer now."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"
    retry_seconds = 1.0


class Overloaded(ServiceError):  # noqa: N818
    """A limit on concurrent calls or a quota is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "TOO_MANY_CALLS"

    def __init__(self, message: str, *, reason: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_seconds = retry_seconds


class Unauthenticated(ServiceError):  # noqa: N818
    """The call has no token, or an unknown one."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNKNOWN_TOKEN"


class PermissionDenied(ServiceError):  # noqa: N818
    """The token lacks the scope of the call."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "MISSING_SCOPE"


class DeadlinePassed(ServiceError):  # noqa: N818
    """The call's deadline has passed, or is too short to be met."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_PASSED"


class InternalError(ServiceError):
    """A bug or an unexpected failure; the server's log has the details."""

    code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


def service_error(error: Exception) -> ServiceError:
    """The error as a caller may see it.

    An unexpected exception becomes INTERNAL with an opaque id. The log gets the id, the type and
    the stack, but not the exception's text: it may quote a conversation.
    """
    if isinstance(error, ServiceError):
        return error
    while isinstance(error, ExceptionGroup):  # the first failure; the others followed from it
        error = error.exceptions[0]
    opaque = uuid.uuid4().hex[:12]
    frames = traceback.extract_tb(error.__traceback__)
    stack = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    _log.error("internal error %s: %s at %s", opaque, type(error).__qualname__, stack)
    return InternalError(f"internal error {opaque}; look up this id in the server's log")


def to_status(error: ServiceError, request_id: str) -> status_pb2.Status:
    """The error as google.rpc.Status."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
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


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as the caller sees it."""

    code: Any  # grpc.StatusCode
    message: str
    reason: str  # "" when the error did not come from a judge server
    fields: dict[str, str]
    retryable: bool  # a retry may succeed

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Failure:
        """From a google.rpc.Status, as `to_status` makes it."""
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
        """From grpc.RpcError, sync or aio, including those of gRPC itself, without details."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_TRAILER:
                try:
                    return cls.from_status(status_pb2.Status.FromString(value))
                except DecodeError:
                    break
        code = error.code()
        return cls(code, error.details() or "", "", {}, code is grpc.StatusCode.UNAVAILABLE)

    def explain(self, address: str) -> UserError:
        """The exception for the user: the problem, the address, the remedy."""
        codes = grpc.StatusCode
        if self.code in (codes.INVALID_ARGUMENT, codes.NOT_FOUND, codes.FAILED_PRECONDITION):
            return JudgeRequestError(self.message, self.fields)
        if self.code is codes.RESOURCE_EXHAUSTED and not self.retryable:  # from gRPC itself
            return JudgeRequestError(f"message too large for {address}: {self.message}")
        if self.code is codes.UNAUTHENTICATED:
            return JudgeRequestError(
                f"{address} rejects this caller: {self.message}; pass a token that its operator "
                "created with `rlaif token new` (token=, or RLAIF_TOKEN)"
            )
        if self.code is codes.PERMISSION_DENIED:
            return JudgeRequestError(
                f"{address} rejects this call: {self.message}; ask its operator for the scope, "
                "or pass another token (token=, or RLAIF_TOKEN)"
            )
        if self.code is codes.UNIMPLEMENTED:
            return JudgeRequestError(
                f"unknown call at {address}; check that it is a judge server of this version"
            )
        if self.code is codes.DEADLINE_EXCEEDED:
            return JudgeUnavailable(
                f"the judge at {address} did not answer in time; allow more time (timeout=)"
            )
        if self.reason:  # an error of the judge server, not of gRPC
            return JudgeUnavailable(f"the judge at {address} reports: {self.message}")

        # gRPC's own error: no connection, or one that broke.
        why = self.message.rpartition("last error: ")[2] or self.code.name
        remedy = "start one with `rlaif serve`, or check the address"
        if "andshake" in why or "Socket closed" in why:
            remedy += "; if one is running there, check TLS (ca=, certificate=, key=)"
        return JudgeUnavailable(f"no judge answers at {address} ({why}); {remedy}")
