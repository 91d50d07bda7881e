"""Authentication and authorization of a call: bearer tokens with scopes.

A token comes as the metadata `authorization: Bearer …`. Which scope an RPC needs is a column of
the table in judge_service/rpc.py. Health needs none: probes carry no token (under mTLS they need a
certificate, like everybody).

Without a file of tokens every caller is `ANONYMOUS` and may call everything: that is for loopback,
for mTLS, where the certificate authenticates callers, and for --insecure.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from judge_service.errors import PermissionDenied, Unauthenticated
from judge_service.rpc import SCOPES, find_rpc
from judge_service.security.tokens import RESERVED_NAME, Token, Tokens


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of an RPC, by the name and the scopes of its token's entry."""

    name: str
    scopes: frozenset[str]


ANONYMOUS = Caller(RESERVED_NAME, frozenset(SCOPES))

_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """The caller of the RPC whose task, or a task started by it, is running."""
    return _caller.get()


def admit(tokens: Tokens, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
    """The token of a call, whose owner becomes the current caller, also for a refusal's log line.

    Raises Unauthenticated and PermissionDenied, which reveal nothing about the known tokens.
    """
    token = identify(tokens, metadata)
    _caller.set(Caller(token.name, frozenset(token.scopes)))
    require_scope(token, method)
    return token


def identify(tokens: Tokens, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
    """The token in a call's metadata. Raises Unauthenticated."""
    token = tokens.find(_bearer(metadata))
    if token is None:
        raise Unauthenticated("unknown token")
    return token


def require_scope(token: Token, method: str) -> None:
    """Raise PermissionDenied when the token lacks the scope that this RPC needs."""
    scope = find_rpc(method).scope
    if scope not in token.scopes:
        raise PermissionDenied(f"the token lacks the scope '{scope}'")


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token in a call's metadata. Raises Unauthenticated unless there is exactly one."""
    headers = [str(value) for key, value in metadata if key.lower() == "authorization"]
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "missing token: expected one `authorization: Bearer …`", reason="MISSING_TOKEN"
        )
    return token.strip()
