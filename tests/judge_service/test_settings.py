"""Settings that are valid one by one and conflict together: each engine has its own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from judge_service.settings import ServerSettings, SettingsError


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"engine": "openai"}, "needs the URL of a model server: set `openai_url`"),
        ({"openai_url": "http://a"}, "'openai_url' does nothing with engine vllm"),
        ({"openai_tokenizer": "a/b"}, "'openai_tokenizer' does nothing with engine vllm"),
        (
            {"engine": "openai", "openai_url": "http://a", "kv_cache_gib": 1},
            "'kv_cache_gib' does nothing with engine openai: set it where the model server",
        ),
        (
            {"engine": "openai", "openai_url": "http://a", "tensor_parallel_size": 2},
            "'tensor_parallel_size' does nothing with engine openai",
        ),
        ({"engine": "openai", "openai_url": "http://key@a"}, "setting 'openai_url'"),
        ({"engine": "openai", "openai_url": "127.0.0.1:8000"}, "setting 'openai_url'"),
        ({"tensor_parallel_size": 0}, "setting 'tensor_parallel_size'"),
        (
            {"engine": "sglang"},
            "setting 'engine': expected one of vllm, openai, planted (found 'sglang')",
        ),
        (
            {"engine": "vlm"},
            "setting 'engine': expected one of vllm, openai, planted; did you mean 'vllm'?",
        ),
    ],
)
def test_conflicting_settings_are_rejected(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(problem)):
        ServerSettings(model="m", **values)


def test_metrics_beyond_loopback_are_refused_unless_spelled_out() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "judge.example"):
        with pytest.raises(SettingsError, match="--metrics-insecure"):
            ServerSettings(model="m", metrics_port=0, metrics_host=host)
        ServerSettings(model="m", metrics_port=0, metrics_host=host, metrics_insecure=True)
    ServerSettings(model="m", metrics_port=0, metrics_host="::1")
    ServerSettings(model="m", metrics_host="0.0.0.0")  # no port, no page


def test_the_password_of_a_collector_is_not_shown() -> None:
    settings = ServerSettings(model="m", otlp_endpoint="http://judge:secret@traces.example:4317")
    assert settings.otlp_endpoint == "http://judge:secret@traces.example:4317"
    shown = settings.model_dump_json() + repr(settings)
    assert "secret" not in shown
    assert "http://judge@traces.example:4317" in shown


def test_a_store_by_caller_needs_tokens() -> None:
    with pytest.raises(SettingsError, match="'store_scope' tells callers apart by their tokens"):
        ServerSettings(model="m", store_scope="caller")
    ServerSettings(model="m", store_scope="caller", tokens="tokens.yaml")
