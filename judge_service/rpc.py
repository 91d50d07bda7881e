"""The RPCs of judge_service.v1: one row for each, read by client, server, tokens and quotas.

To add an RPC, see docs/architecture.md: the proto, a row here, server/servicers.py, the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Scope = Literal["judge", "read", "admin"]
"""What a token may call: `judge` whatever computes a judgment, `read` what only looks something up,
`admin` reflection, every method without a row, and rows that say so. Scopes bind where the server
has tokens."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

QuotaUnit = Literal["call", "items", "free"]
"""What counts against a token's requests per minute: the call, each item of its stream, nothing.

All but `free` also occupy one of the token's concurrent calls."""

Behavior = Callable[[Any, Any], Awaitable[Any]]
"""The coroutine function that answers an RPC: (request, context) -> response."""

PACKAGE = "judge_service.v1"
JUDGE_SERVICE = f"{PACKAGE}.JudgeService"
CONSTITUTION_SERVICE = f"{PACKAGE}.ConstitutionService"


@dataclass(frozen=True, slots=True)
class RPC:
    """One RPC.

    retried: gRPC may repeat a call that failed as UNAVAILABLE. streaming: the client sends any
    number of items; such calls have no expected duration, and end when their token is revoked.
    always_admitted: answered beyond the limit of concurrent calls, and while the server drains.
    """

    service: str  # with its package
    name: str
    scope: Scope
    quota: QuotaUnit = "call"
    retried: bool = True
    streaming: bool = False
    always_admitted: bool = False

    @property
    def method(self) -> str:
        """The full name, as gRPC gives it to interceptors."""
        return f"/{self.service}/{self.name}"


RPCS = (
    RPC(JUDGE_SERVICE, "ComparePair", scope="judge"),
    RPC(JUDGE_SERVICE, "RankCandidates", scope="judge"),
    RPC(JUDGE_SERVICE, "ScoreCandidate", scope="judge"),
    RPC(JUDGE_SERVICE, "CritiqueCandidate", scope="judge"),
    RPC(JUDGE_SERVICE, "ReviseCandidate", scope="judge"),
    # Resumed by the client itself, which knows what is unanswered (client/resumable_stream.py).
    RPC(
        JUDGE_SERVICE,
        "StreamJudgments",
        scope="judge",
        quota="items",
        retried=False,
        streaming=True,
    ),
    # Clients poll it while the model loads, and must learn of an overloaded server that it is one.
    RPC(
        JUDGE_SERVICE,
        "GetServerInfo",
        scope="read",
        quota="free",
        retried=False,
        always_admitted=True,
    ),
    RPC(CONSTITUTION_SERVICE, "ListConstitutions", scope="read"),
    RPC(CONSTITUTION_SERVICE, "GetConstitution", scope="read"),
    RPC(CONSTITUTION_SERVICE, "ValidateConstitution", scope="read"),
    RPC(CONSTITUTION_SERVICE, "PreviewPrompt", scope="read"),
)

_BY_METHOD = {rpc.method: rpc for rpc in RPCS}


def find_rpc(method: str) -> RPC:
    """The row of a full method name; for one without a row, such as reflection's, the strictest.

    >>> find_rpc("/judge_service.v1.JudgeService/ComparePair").scope
    'judge'
    >>> find_rpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo").scope
    'admin'
    """
    known = _BY_METHOD.get(method)
    if known is not None:
        return known
    service, _, name = method.removeprefix("/").rpartition("/")
    return RPC(service, name, scope="admin", retried=False)


def is_ours(method: str) -> bool:
    """Whether a full method name belongs to our package, and not to health or reflection."""
    return method.startswith(f"/{PACKAGE}.")
