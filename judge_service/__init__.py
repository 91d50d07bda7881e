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
settings_checks.py    which settings do not go together
settings_flags.py     flags, generated from the settings' fields
server_info.py        a server's description of itself
judge/                what is asked, and how answers become labels
engines/              ways to run the judge model
planted/              a simulated judge whose truth is known, for experiments
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
    from constitution.errors import Diagnostic
    from constitution.schema import Constitution, Message
    from judge_service.client.aio import AsyncJudgeClient
    from judge_service.client.calls import ConstitutionRef, ConversationLike
    from judge_service.client.sync import JudgeClient
    from judge_service.errors import JudgeRequestError, JudgeUnavailable
    from judge_service.server_info import (
        ConstitutionSummary,
        FittedCalibration,
        ServerInfo,
        ServerLimits,
        ServerState,
    )
    from judge_service.types import (
        Comparison,
        Conversation,
        JudgeOptions,
        Judgment,
        ModelIdentity,
        Order,
        PrincipleScore,
        PrincipleVote,
        PromptPreview,
        Provenance,
        RankedCandidate,
        Ranking,
        Read,
        Score,
        Unjudged,
        UnjudgedReason,
        Usage,
        Verdict,
        Writing,
        WritingOptions,
    )

__all__ = [
    "AsyncJudgeClient",
    "Comparison",
    "Constitution",
    "ConstitutionRef",
    "ConstitutionSummary",
    "Conversation",
    "ConversationLike",
    "Diagnostic",
    "FittedCalibration",
    "JudgeClient",
    "JudgeOptions",
    "JudgeRequestError",
    "JudgeUnavailable",
    "Judgment",
    "Message",
    "ModelIdentity",
    "Order",
    "PrincipleScore",
    "PrincipleVote",
    "PromptPreview",
    "Provenance",
    "RankedCandidate",
    "Ranking",
    "Read",
    "Score",
    "ServerInfo",
    "ServerLimits",
    "ServerState",
    "Unjudged",
    "UnjudgedReason",
    "Usage",
    "Verdict",
    "Writing",
    "WritingOptions",
]

_HOMES = {
    "constitution.errors": {"Diagnostic"},
    "constitution.schema": {"Constitution", "Message"},
    "judge_service.client.aio": {"AsyncJudgeClient"},
    "judge_service.client.calls": {"ConstitutionRef", "ConversationLike"},
    "judge_service.client.sync": {"JudgeClient"},
    "judge_service.errors": {"JudgeRequestError", "JudgeUnavailable"},
    "judge_service.server_info": {
        "ConstitutionSummary",
        "FittedCalibration",
        "ServerInfo",
        "ServerLimits",
        "ServerState",
    },
    "judge_service.types": {
        "Comparison",
        "Conversation",
        "JudgeOptions",
        "Judgment",
        "ModelIdentity",
        "Order",
        "PrincipleScore",
        "PrincipleVote",
        "PromptPreview",
        "Provenance",
        "RankedCandidate",
        "Ranking",
        "Read",
        "Score",
        "Unjudged",
        "UnjudgedReason",
        "Usage",
        "Verdict",
        "Writing",
        "WritingOptions",
    },
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
