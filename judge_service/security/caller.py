"""Who calls, and what they may: bearer tokens with scopes, checked before anything is done.

A token comes as the metadata `authorization: Bearer …`. Which scope an RPC needs is a column of
the table in judge_service/rpc.py. Health needs none: probes carry no token (under mTLS they need a
certificate, like everybody).

Without a file of tokens everybody who can connect is `ANONYMOUS` and may call everything: that is
for loopback, for mTLS, where the certificate is the admission, and for --insecure.
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
    """Who makes the call that is being answered. `name` is that of the token's entry."""

    name: str
    scopes: frozenset[str]


ANONYMOUS = Caller(RESERVED_NAME, frozenset(SCOPES))

_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """The caller of the RPC in whose task, or in a task started by it, this is asked."""
    return _caller.get()


def admit(tokens: Tokens, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
    """The token of a call; its owner is the caller from now on, also in the log of a refusal.

    Raises Unauthenticated and PermissionDenied, which tell nothing of the tokens that there are.
    """
    token = identify(tokens, metadata)
    _caller.set(Caller(token.name, frozenset(token.scopes)))
    require_scope(token, method)
    return token


def identify(tokens: Tokens, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
    """The token in a call's metadata. Raises Unauthenticated."""
    token = tokens.find(_bearer(metadata))
    if token is None:
        raise Unauthenticated("this server does not know the token")
    return token


def require_scope(token: Token, method: str) -> None:
    """Raises PermissionDenied when the token may not call this RPC."""
    scope = find_rpc(method).scope
    if scope not in token.scopes:
        raise PermissionDenied(f"the token lacks the scope '{scope}'")


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token in a call's metadata. Raises Unauthenticated when there is none, or several."""
    found = [str(value) for key, value in metadata if key.lower() == "authorization"]
    scheme, _, token = found[0].partition(" ") if len(found) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "this server asks for a token, in one `authorization: Bearer …`", reason="MISSING_TOKEN"
        )
    return token.strip()
