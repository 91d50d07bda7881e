"""Everything that can go wrong between a caller and the court, on both sides of the wire.

    UserError                       (constitution.errors) told in one message, without traceback
    ├─ ServerStartError             server side: it cannot start as asked
    ├─ JudgeUnavailable             client side: nobody answers; asking again later may help
    └─ JudgeRequestError            client side: this request is refused; asking again will not help
    ServiceError                    server side: what an RPC fails with
    ├─ InvalidRequest               INVALID_ARGUMENT, names the field
    ├─ NotAllowed                   FAILED_PRECONDITION: this server is not set up for it
    ├─ NotFound                     NOT_FOUND
    ├─ Unavailable                  UNAVAILABLE, says when to try again
    ├─ Overloaded                   RESOURCE_EXHAUSTED, says when to try again
    ├─ Unauthenticated              UNAUTHENTICATED: no token, or none that this server knows
    ├─ PermissionDenied             PERMISSION_DENIED: the token lacks a scope
    ├─ DeadlinePassed               DEADLINE_EXCEEDED
    └─ InternalError                INTERNAL, with an opaque id and nothing else

On the wire an error is a google.rpc.Status (AIP-193): ErrorInfo always, BadRequest for fields,
RetryInfo where trying again helps. It travels in the trailer that `grpcio-status` reads.
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
    """The server cannot start as asked: a busy port, an open bind, a wrong setting."""


class EngineLost(UserError):  # noqa: N818
    """The engine died while serving and cannot come back: the process ends with this."""


class JudgeUnavailable(UserError):  # noqa: N818  the name is part of the client's interface
    """No judge answers now. Names the address and the remedy; results already given stay valid."""


class JudgeRequestError(UserError):
    """The judge refuses this request. `fields` maps each bad field to what is wrong with it."""

    def __init__(self, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}


class ServiceError(Exception):
    """What an RPC fails with. The message goes to the caller: it never quotes a conversation.

    `fields` maps each bad field to its problem, or problems, one a line.
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


class InvalidRequest(ServiceError):  # noqa: N818  named after the status it becomes, like the rest
    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str, *, reason: str = "") -> None:
        super().__init__(f"{field}: {problem}", reason=reason, fields={field: problem})


class NotAllowed(ServiceError):  # noqa: N818
    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "NOT_ALLOWED"


class NotFound(ServiceError):  # noqa: N818
    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class Unavailable(ServiceError):  # noqa: N818
    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"
    retry_seconds = 1.0


class Overloaded(ServiceError):  # noqa: N818
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "TOO_MANY_CALLS"

    def __init__(self, message: str, *, reason: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_seconds = retry_seconds


class Unauthenticated(ServiceError):  # noqa: N818
    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNKNOWN_TOKEN"


class PermissionDenied(ServiceError):  # noqa: N818
    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "MISSING_SCOPE"


class DeadlinePassed(ServiceError):  # noqa: N818
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_PASSED"


class InternalError(ServiceError):
    code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


def service_error(error: Exception) -> ServiceError:
    """The error as a caller may see it.

    One that nobody foresaw becomes INTERNAL with an opaque id. The log has the id, the type and the
    places in the code, and not the text of the exception: it may quote a conversation.
    """
    if isinstance(error, ServiceError):
        return error
    while isinstance(error, ExceptionGroup):  # the first failure; the others followed from it
        error = error.exceptions[0]
    opaque = uuid.uuid4().hex[:12]
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    _log.error("internal error %s: %s at %s", opaque, type(error).__qualname__, places)
    return InternalError(f"internal error {opaque}; the server's log says more under this id")


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
    retryable: bool  # asking again may help

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> Failure:
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
        """From grpc.RpcError, sync or aio; also when it comes from gRPC itself, without details."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_TRAILER:
                try:
                    return cls.from_status(status_pb2.Status.FromString(value))
                except DecodeError:
                    break
        code = error.code()
        return cls(code, error.details() or "", "", {}, code is grpc.StatusCode.UNAVAILABLE)

    def explain(self, address: str) -> UserError:
        """The exception for the user: what, where, the remedy."""
        codes = grpc.StatusCode
        if self.code in (codes.INVALID_ARGUMENT, codes.NOT_FOUND, codes.FAILED_PRECONDITION):
            return JudgeRequestError(self.message, self.fields)
        if self.code is codes.RESOURCE_EXHAUSTED and not self.retryable:  # from gRPC itself
            return JudgeRequestError(f"message too large for {address}: {self.message}")
        if self.code is codes.UNAUTHENTICATED:
            return JudgeRequestError(
                f"{address} refuses this caller: {self.message}; give a token that its operator "
                "made with `rlaif token new` (token=, or RLAIF_TOKEN)"
            )
        if self.code is codes.PERMISSION_DENIED:
            return JudgeRequestError(
                f"{address} refuses this call: {self.message}; ask its operator for the scope, "
                "or give another token (token=, or RLAIF_TOKEN)"
            )
        if self.code is codes.UNIMPLEMENTED:
            return JudgeRequestError(
                f"{address} does not offer this call; is it a judge server of this version?"
            )
        if self.code is codes.DEADLINE_EXCEEDED:
            return JudgeUnavailable(
                f"the judge at {address} did not answer in time; give it longer (timeout=)"
            )
        if self.reason:  # a judge server said so itself
            return JudgeUnavailable(f"the judge at {address} says: {self.message}")
        why = self.message.rpartition("last error: ")[2] or self.code.name
        remedy = "start one with `rlaif serve`, or check the address"
        if "andshake" in why or "Socket closed" in why:
            remedy += "; if one runs there, check TLS (ca=, certificate=, key=)"
        return JudgeUnavailable(f"no judge answers at {address} ({why}); {remedy}")
