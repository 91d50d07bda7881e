"""The judge service: text in, judgments out. A gRPC server over a language model, and its client.

    with JudgeClient("127.0.0.1:50051") as judge:
        judgment = judge.compare("Name a fruit", "An apple.", "A stone.")

The names in `__all__` are the public API; they are imported when they are first used.

__main__.py           `python -m judge_service`: a server without the package rlaif
types.py              comparisons, judgments, options: the types of the public API
engine.py             the interface between the judge and a language model
errors.py             the exceptions of server and client
status.py             errors on the wire
rpc.py                the table of our RPCs: scope, quota, retries, admission
settings.py           what an operator can set of a server
settings_sources.py   settings from file, environment and flags
settings_flags.py     flags, generated from the settings' fields
server_info.py        a server's description of itself
file_watch.py         detects changed files
judge/                what is asked, and how answers become labels
engines/              ways to run the judge model
store/                where reads are kept
security/             tokens, quotas, TLS
observability/        metrics, traces, logs
wire/                 protobuf ↔ types
client/               the gRPC client
server/               the gRPC server
v1/                   generated from protos/
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judge_service.client import (
        AsyncJudgeClient,
        JudgeClient,
        JudgeRequestError,
        JudgeUnavailable,
    )
    from judge_service.types import Comparison, JudgeOptions, Judgment, Unjudged

__all__ = [
    "AsyncJudgeClient",
    "Comparison",
    "JudgeClient",
    "JudgeOptions",
    "JudgeRequestError",
    "JudgeUnavailable",
    "Judgment",
    "Unjudged",
]

_FROM_TYPES = {"Comparison", "JudgeOptions", "Judgment", "Unjudged"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module(f"{__name__}.{'types' if name in _FROM_TYPES else 'client'}"), name
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
