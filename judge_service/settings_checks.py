"""Settings of a judge server that are valid one by one and not together."""

from __future__ import annotations

import ipaddress
from typing import Any

from judge_service.planted.file import PREFIX, planted_file


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; False for host names but localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def conflicts(settings: Any) -> list[tuple[str, str]]:
    """The problems of settings that are valid one by one and not together."""
    problems = []
    if settings.tls_certificate is not None and settings.tls_key is None:
        problem = "setting 'tls_certificate' needs its private key: set `tls_key` too"
        problems.append(("tls_certificate", problem))
    if settings.tls_key is not None and settings.tls_certificate is None:
        problem = "setting 'tls_key' is of no use alone: set `tls_certificate` too"
        problems.append(("tls_key", problem))
    if settings.tls_client_ca is not None and not settings.with_tls:
        problem = "setting 'tls_client_ca' needs TLS: set `tls_certificate` and `tls_key` too"
        problems.append(("tls_client_ca", problem))
    if settings.store_scope == "caller" and settings.tokens is None:
        problem = "setting 'store_scope' tells callers apart by their tokens: set `tokens` too"
        problems.append(("store_scope", problem))
    problems += _engine_together(settings)
    guarded = settings.with_tls and settings.authenticates
    if not settings.on_loopback and not guarded and not settings.insecure:
        lacking = [] if settings.with_tls else ["TLS (`tls_certificate`, `tls_key`)"]
        if not settings.authenticates:
            lacking.append("authentication (`tokens` or `tls_client_ca`)")
        problem = (
            f"host {settings.host} is not loopback and the server has no {' and no '.join(lacking)}"
            ": set them, listen on 127.0.0.1, or let anybody who reaches it use it and read along, "
            "with --insecure"
        )
        problems.append(("host", problem))
    if settings.metrics_port is not None and not (
        is_loopback(settings.metrics_host) or settings.metrics_insecure
    ):
        problem = (
            f"metrics_host {settings.metrics_host} is not loopback, and metrics have neither TLS "
            "nor authentication: serve them on 127.0.0.1, or let anybody who reaches the port read "
            "them, with --metrics-insecure"
        )
        problems.append(("metrics_host", problem))
    return problems


def _engine_together(settings: Any) -> list[tuple[str, str]]:
    """Settings of one engine do nothing with another; engines added from outside read any."""
    of_openai = {"openai_url", "openai_tokenizer"}
    of_vllm = {"dtype", "kv_cache_gib", "step_tokens", "tensor_parallel_size"}
    foreign, remedy = {
        "vllm": (of_openai, "set engine to openai, or leave it out"),
        "openai": (of_vllm, "set it where the model server is started, and leave it out here"),
        "planted": (of_openai | of_vllm, "leave it out"),
    }.get(settings.engine, (set[str](), ""))
    problems = []
    for name in sorted(foreign):
        if getattr(settings, name) != type(settings).model_fields[name].default:
            problem = f"setting '{name}' does nothing with engine {settings.engine}: {remedy}"
            problems.append((name, problem))
    if (settings.engine == "planted") is not (planted_file(settings.model) is not None):
        problem = (
            f"engine {settings.engine} does not go with model {settings.model}: the engine planted "
            f"takes a model {PREFIX}FILE, and no other engine does"
        )
        problems.append(("engine", problem))
    if settings.engine == "openai" and settings.openai_url is None:
        problem = "engine openai needs the URL of a model server: set `openai_url`"
        problems.append(("engine", problem))
    return problems
