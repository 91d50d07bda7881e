"""A client's connection: the gRPC target, the channel's options, TLS and the token.

An address is host:port, a gRPC target with its scheme, or several host:port separated by commas.
Calls alternate between all replicas that answer (a stream goes to all that are listed, each over a
channel of its own: `listed_connections`): all addresses of a DNS name, which is resolved
again when one is lost, or all that are listed, which are resolved once, here. gRPC also watches the
health of listed replicas and skips those that are loading, draining or have lost their engine; with
a single address none is skipped, so that the server itself can report its state. Under TLS
certificates must carry the name of the address; of several, the first's.

A token is a secret: it is sent in plain text only within this machine.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from judge_service.errors import JudgeRequestError, JudgeUnavailable
from judge_service.rpc import JUDGE_SERVICE, RPCS
from judge_service.security.pem import PemError, read_authority, read_pair

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": rpc.service, "method": rpc.name} for rpc in RPCS if rpc.retried],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_WATCHED = {"healthCheckConfig": {"serviceName": JUDGE_SERVICE}}

Options = list[tuple[str, int | str]]


@dataclass(frozen=True)
class Connection:
    """The parameters of a channel. `metadata` is sent with every call."""

    target: str
    options: Options
    credentials: Any | None  # grpc.ChannelCredentials; None: plain text
    metadata: tuple[tuple[str, str], ...]

    def channel(self, grpc_kind: Any) -> Any:
        """A channel of `grpc` or of `grpc.aio`."""
        if self.credentials is None:
            return grpc_kind.insecure_channel(self.target, self.options)
        return grpc_kind.secure_channel(self.target, self.credentials, self.options)


def connection(
    address: str,
    max_message_bytes: int,
    *,
    token: str | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Connection:
    """The parameters of a channel to `address`; the arguments are those of `ClientBase`.

    Reads the PEM files and resolves listed hosts, but does not connect. Raises JudgeRequestError
    for an invalid address, file or token, and JudgeUnavailable if none of several hosts can be
    resolved.
    """
    if not isinstance(address, str):
        raise JudgeRequestError(f"invalid address: {address!r}; give host:port as text")
    hosts = _hosts(address)
    local = all(map(_is_local, hosts))
    credentials = _credentials(ca, certificate, key)
    if token and credentials is None and not local:
        raise JudgeRequestError(
            f"the token would be sent to {address} in plain text; give the authority that signed "
            "the server's certificate (ca=, --ca or RLAIF_CA)"
        )
    return Connection(
        target=target(address),
        options=channel_options(address, max_message_bytes, local=local),
        credentials=credentials,
        metadata=(("authorization", _bearer(token)),) if token else (),
    )


def listed_connections(
    address: str, whole: Connection, max_message_bytes: int
) -> dict[str, Connection]:
    """The parameters of a channel to each of several listed addresses; none for any other address.

    whole: those of a channel to all of them. The first's name is the one in the certificates.
    """
    if not _is_listed(address):
        return {}
    places = list(dict.fromkeys(part.strip() for part in address.split(",")))
    connections = {}
    for place in places if len(places) > 1 else []:
        options = channel_options(place, max_message_bytes, local=_is_local(_place(place)[0]))
        options.append(("grpc.default_authority", places[0]))
        connections[place] = Connection(
            f"dns:///{place}", options, whole.credentials, whole.metadata
        )
    return connections


def target(address: str) -> str:
    """The gRPC target of an address, between whose replicas calls alternate.

    One host:port becomes a DNS target; several are resolved here, into one list. Raises as
    `connection` does.
    """
    if _has_scheme(address):
        return address
    places = [_place(part) for part in address.split(",")]
    if len(places) == 1:
        return f"dns:///{address}"
    return _static_target(places)


def channel_options(address: str, max_message_bytes: int, *, local: bool) -> Options:
    """gRPC's options of a channel: retries, message limits, keepalive, health of listed replicas.

    local: all hosts are this machine, so no proxy is used.
    """
    listed = _is_listed(address)
    config = _SERVICE_CONFIG | (_WATCHED if listed else {})
    options: Options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),  # detects a server that vanished
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if local:
        options.append(("grpc.enable_http_proxy", 0))  # no proxy leads to this very machine
    if listed:
        # gRPC would look for the name "localhost" in the certificates of listed addresses.
        options.append(("grpc.default_authority", address.split(",")[0].strip()))
    return options


def _credentials(ca: Path | None, certificate: Path | None, key: Path | None) -> Any | None:
    """grpc.ChannelCredentials; None without TLS."""
    if ca is None and certificate is None and key is None:
        return None
    if (certificate is None) != (key is None):
        missing = "key=" if key is None else "certificate="
        raise JudgeRequestError(
            f"a client certificate needs its key, and a key its certificate; give {missing}"
        )
    try:
        roots = None if ca is None else read_authority("ca", ca)
        private, chain = None, None
        if certificate is not None and key is not None:
            private, chain = read_pair("certificate", certificate, "key", key)
    except PemError as error:
        raise JudgeRequestError(str(error)) from None
    return grpc.ssl_channel_credentials(roots, private, chain)


def _bearer(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise JudgeRequestError("the token has spaces or unprintable characters; copy it again")
    return f"Bearer {token}"


# ---------------------------------------------------------------- addresses


def _has_scheme(address: str) -> bool:
    return "://" in address or address.startswith(("unix:", "ipv4:", "ipv6:"))


def _is_listed(address: str) -> bool:
    return "," in address and not _has_scheme(address)


def _place(part: str) -> tuple[str, int]:
    """(host, port) of host:port."""
    host, _, port = part.strip().rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise JudgeRequestError(f"'{part}' is not host:port, such as 127.0.0.1:50051")
    return host, int(port)


def _static_target(places: list[tuple[str, int]]) -> str:
    """A target of their IP addresses, of the family that resolves most: gRPC takes only one."""
    ipv4 = [_resolve(host, port, socket.AF_INET) for host, port in places]
    ipv6 = [_resolve(host, port, socket.AF_INET6) for host, port in places]
    scheme, resolved = ("ipv4", ipv4) if _count(ipv4) >= _count(ipv6) else ("ipv6", ipv6)
    listed = dict.fromkeys(each for addresses in resolved for each in addresses)
    if not listed:
        names = ", ".join(host for host, _ in places)
        raise JudgeUnavailable(f"none of {names} can be resolved; check the address")
    return f"{scheme}:{','.join(listed)}"


def _count(resolved: list[list[str]]) -> int:
    return sum(map(bool, resolved))


def _resolve(host: str, port: int, family: socket.AddressFamily) -> list[str]:
    try:
        places = socket.getaddrinfo(host.strip("[]"), port, family, socket.SOCK_STREAM)
    except OSError:
        return []
    shown = "[{}]:{}" if family is socket.AF_INET6 else "{}:{}"
    return [shown.format(*address[:2]) for *_, address in places]


def _hosts(address: str) -> list[str]:
    """The hosts in an address."""
    if address.startswith("unix:"):
        return ["localhost"]
    if "://" in address:
        address = address.partition("://")[2].rpartition("/")[2]
    else:
        for scheme in ("ipv4:", "ipv6:"):
            address = address.removeprefix(scheme)
    return [part.strip().rpartition(":")[0] for part in address.split(",")]


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
