"""How a client connects: the gRPC target and the channel's options."""

from __future__ import annotations

import ipaddress
import json

from judge_service.errors import JudgeRequestError

_RETRIED = {
    "judge_service.v1.JudgeService": (
        "ComparePair",
        "RankCandidates",
        "ScoreCandidate",
        "CritiqueCandidate",
        "ReviseCandidate",
    ),
    "judge_service.v1.ConstitutionService": (
        "ListConstitutions",
        "GetConstitution",
        "ValidateConstitution",
        "PreviewPrompt",
    ),
}
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _RETRIED.items()
                    for method in methods
                ],
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
)


def target(address: str) -> str:
    """A gRPC target: every address of the name is used in turn."""
    if "://" in address or address.startswith(("unix:", "ipv4:", "ipv6:")):
        return address
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise JudgeRequestError(f"'{address}' is not host:port, such as 127.0.0.1:50051")
    return f"dns:///{address}"


def channel_options(address: str, max_message_bytes: int) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),  # notices a server that vanished
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if _is_loopback(address.rpartition("/")[2].rpartition(":")[0]):
        options.append(("grpc.enable_http_proxy", 0))  # no proxy leads to this very machine
    return options


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
