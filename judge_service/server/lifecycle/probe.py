"""A health check as a command, for supervisors that cannot speak gRPC over TLS.

It calls grpc.health.v1 on the server's own machine, over TLS if the settings have it. It trusts the
very certificate of the settings, under whatever name is in it, since the connection never leaves
the machine. With mTLS it presents the same certificate, so `tls_client_ca` must have signed the
server's too.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from constitution.errors import UserError
from judge_service.security.pem import read_pair
from judge_service.settings import ServerSettings

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}


class NotServing(UserError):  # noqa: N818  an answer, not a fault
    """No server answers, or it is not serving now."""


def probe(settings: ServerSettings, timeout_s: float = 5.0) -> None:
    """Return if the server is serving. Raises NotServing, and PemError for invalid PEM files."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    host = _ANYWHERE.get(settings.host, settings.host).strip("[]")
    address = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    try:
        channel = _channel(settings, host, address, timeout_s)
        with channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except (OSError, ssl.SSLError) as error:
        raise NotServing(f"{address} does not answer: {error}") from None
    except grpc.RpcError as error:
        raise NotServing(f"{address} does not answer: {error.code().name}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise NotServing(f"{address} is {state}: it is loading or draining, or its engine died")


def _channel(settings: ServerSettings, host: str, address: str, timeout_s: float) -> Any:
    import grpc

    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if settings.tls_certificate is None or settings.tls_key is None:
        return grpc.insecure_channel(address, options)
    files = ("tls_certificate", settings.tls_certificate, "tls_key", settings.tls_key)
    key, chain = read_pair(*files)
    own = (key, chain) if settings.tls_client_ca else (None, None)
    credentials = grpc.ssl_channel_credentials(chain, *own)
    name = _certified_name(settings, host, timeout_s)
    return grpc.secure_channel(
        address, credentials, [*options, ("grpc.ssl_target_name_override", name)]
    )


def _certified_name(settings: ServerSettings, host: str, timeout_s: float) -> str:
    """A name in the certificate that the server presents."""
    assert settings.tls_certificate is not None
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    context.set_alpn_protocols(["h2"])
    if settings.tls_client_ca:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    with (
        socket.create_connection((host, settings.port), timeout_s) as plain,
        context.wrap_socket(plain) as secure,
    ):
        shown: dict[str, Any] = secure.getpeercert() or {}
    names = [
        value for kind, value in shown.get("subjectAltName", ()) if kind in ("DNS", "IP Address")
    ]
    return names[0].replace("*", "any") if names else host
