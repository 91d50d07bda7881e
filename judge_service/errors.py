"""The exceptions of server and client.

    UserError                       (constitution.errors) shown as one message, without traceback
    ├─ ServerStartError             server: it cannot start with these settings
    ├─ EngineLost                   server: its engine died; the process ends
    ├─ JudgeUnavailable             client: no server answers; a later retry may help
    └─ JudgeRequestError            client: the request is refused; a retry will not help
    ServiceError                    server: why an RPC fails
    ├─ InvalidRequest               INVALID_ARGUMENT, names the field
    ├─ NotAllowed                   FAILED_PRECONDITION: this server is not set up for it
    ├─ NotFound                     NOT_FOUND
    ├─ Unavailable                  UNAVAILABLE, with the time until a retry
    ├─ Overloaded                   RESOURCE_EXHAUSTED, with the time until a retry
    ├─ Unauthenticated              UNAUTHENTICATED: a missing or unknown token
    ├─ PermissionDenied             PERMISSION_DENIED: the token lacks a scope
    ├─ DeadlinePassed               DEADLINE_EXCEEDED
    └─ InternalError                INTERNAL, with an opaque id and nothing else

status.py turns a ServiceError into what travels over the wire, and back. This file imports no
gRPC, so that settings and engines can raise these errors without it.
"""

from __future__ import annotations

from typing import ClassVar

from constitution.errors import UserError


class ServerStartError(UserError):
    """The server cannot start: a busy port, an unprotected address, an invalid setting."""


class EngineLost(UserError):  # noqa: N818
    """The engine died while serving and cannot recover; the server process ends with this."""


class JudgeUnavailable(UserError):  # noqa: N818  the name is part of the client's interface
    """No judge server answers now. Names the address and the remedy; earlier answers stay valid."""


class JudgeRequestError(UserError):
    """The server refuses this request. `fields` maps each invalid field to its problem."""

    def __init__(self, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or {}


class ServiceError(Exception):
    """The failure of an RPC. Its message goes to the caller and never quotes a conversation.

    reason: a machine-readable cause, part of the API; "" takes the class's own. fields: each
    invalid field and its problems, one per line. retry_seconds: when to retry; None: a retry does
    not help.
    """

    code: ClassVar[str]  # name of a grpc.StatusCode
    default_reason: ClassVar[str]
    retry_seconds: float | None = None

    def __init__(
        self, message: str, *, reason: str = "", fields: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.fields = fields or {}


class InvalidRequest(ServiceError):  # noqa: N818  named after the status it becomes, like the rest
    """A field of the request has an invalid value; `field` is its path, such as "options.seed"."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str, *, reason: str = "") -> None:
        super().__init__(f"{field}: {problem}", reason=reason, fields={field: problem})


class NotAllowed(ServiceError):  # noqa: N818
    """A valid request that this server is not set up for, such as one with its own constitution."""

    code = "FAILED_PRECONDITION"
    default_reason = "NOT_ALLOWED"


class NotFound(ServiceError):  # noqa: N818
    """The request is about something that this server does not have."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class Unavailable(ServiceError):  # noqa: N818
    """The server cannot answer now: it is loading or stopping, or its engine or store is down."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"
    retry_seconds = 1.0


class Overloaded(ServiceError):  # noqa: N818
    """The caller or the server is at a limit; `retry_seconds` says when to try again."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "TOO_MANY_CALLS"

    def __init__(self, message: str, *, reason: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_seconds = retry_seconds


class Unauthenticated(ServiceError):  # noqa: N818
    """The call has no token, or one that the server does not know."""

    code = "UNAUTHENTICATED"
    default_reason = "UNKNOWN_TOKEN"


class PermissionDenied(ServiceError):  # noqa: N818
    """The token's entry lacks the scope that the RPC needs."""

    code = "PERMISSION_DENIED"
    default_reason = "MISSING_SCOPE"


class DeadlinePassed(ServiceError):  # noqa: N818
    """The call's deadline has passed, or leaves less time than such calls take at present."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_PASSED"


class InternalError(ServiceError):
    """A fault of the server's own; the message holds only an id by which its log has the cause."""

    code = "INTERNAL"
    default_reason = "INTERNAL"
