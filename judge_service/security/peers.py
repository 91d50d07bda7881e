"""Shares of callers without tokens: of one client certificate, else of one network address.

Where no tokens are configured, every caller may call everything, but none may hold all calls of the
server. A caller is its client certificate (mTLS), else the address of its connection; of IPv6 the
first 64 bits, which one customer has. Loopback and Unix sockets are not counted: there all callers
have one address, and so they do behind a proxy, which has to tell them apart itself.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any
from urllib.parse import unquote

import grpc

from judge_service.errors import Overloaded
from judge_service.rpc import find_rpc, is_ours
from judge_service.security.interceptor import around

_SITE_BITS = 64


class PeerGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses calls of a caller that has `max_concurrent` already. Runs inside CallGuard."""

    def __init__(self, max_concurrent: int) -> None:
        self._most = max_concurrent
        self._active: Counter[str] = Counter()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called by gRPC for every call: the handler, counted if it occupies one of our calls."""
        handler = await continuation(details)
        counted = is_ours(details.method) and find_rpc(details.method).quota != "free"
        return around(handler, details.method, self._call) if handler and counted else handler

    async def _call(self, method: str, behavior: Any, request: Any, context: Any) -> Any:
        peer = peer_name(context)
        if not peer:
            return await behavior(request, context)
        if self._active[peer] >= self._most:
            raise Overloaded(
                f"this caller is at its limit of {self._most} concurrent calls; retry when one "
                "ends; without tokens one certificate or address is one caller",
                reason="MAX_CONCURRENT",
            )
        self._active[peer] += 1
        try:
            return await behavior(request, context)
        finally:
            self._active[peer] -= 1
            if not self._active[peer]:
                del self._active[peer]


def peer_name(context: Any) -> str:
    """The caller of a call without a token; "" for one on this machine, who is not told apart."""
    if identities := context.peer_identities():
        return "certificate " + b" ".join(identities).decode(errors="replace")
    kind, _, rest = unquote(str(context.peer())).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    if kind not in ("ipv4", "ipv6"):
        return ""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            site = ipaddress.ip_network((address, _SITE_BITS), strict=False)
            return "" if address.is_loopback else str(site)
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)
