"""Each call of a client as a value: its RPC, its request, and how to read the response.

The sync and the aio client differ only in how they perform a `Call`. The arguments are those of the
client's methods. Every function raises JudgeRequestError for values that protobuf cannot encode,
such as a lone surrogate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from constitution.errors import Diagnostic
from constitution.schema import Constitution, Message
from judge_service.errors import JudgeRequestError
from judge_service.server_info import ConstitutionSummary, ServerInfo
from judge_service.types import (
    Comparison,
    Conversation,
    JudgeOptions,
    Judgment,
    PromptPreview,
    Ranking,
    Score,
    Unjudged,
    Writing,
    WritingOptions,
)
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.candidates import preview_from_proto, score_from_proto, writing_from_proto
from judge_service.wire.constitutions import (
    constitution_from_proto,
    conversation_to_proto,
    diagnostic_from_proto,
    summary_from_proto,
)
from judge_service.wire.judgments import (
    judgment_from_proto,
    ranking_from_proto,
    server_info_from_proto,
)
from judge_service.wire.requests import (
    compare_request,
    constitution_ref,
    options_to_proto,
    writing_options_to_proto,
)

ConstitutionRef = str | Constitution
"""The constitution to judge by: a name, a digest, "" for the server's default, or one of your own,
which is sent with the request (the server needs --allow-inline)."""

ConversationLike = Conversation | str
"""A conversation; a string is one user turn."""

_Result = TypeVar("_Result")
_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True)
class Call(Generic[_Result]):
    """An RPC, by its name in `base.stubs`, with its request and how to read the response."""

    rpc: str
    request: Any
    read: Callable[[Any], _Result]


def compare(
    conversation: ConversationLike,
    response_a: str,
    response_b: str,
    constitution: ConstitutionRef,
    options: JudgeOptions,
) -> Call[Judgment | Unjudged]:
    """ComparePair, read as the pair's judgment."""
    comparison = Comparison("", _turns(conversation), response_a, response_b)
    ref = sendable_ref(constitution)
    request = _sendable(lambda: compare_request(comparison, ref, options))
    return Call("ComparePair", request, lambda r: judgment_from_proto(r.judgment))


def rank(
    conversation: ConversationLike,
    candidates: Sequence[str],
    constitution: ConstitutionRef,
    options: JudgeOptions,
) -> Call[Ranking]:
    """RankCandidates, read as the ranking; the server checks the number of candidates."""
    request = _sendable(
        lambda: pb.RankCandidatesRequest(
            **_common_fields(conversation, constitution),
            candidates=candidates,
            options=options_to_proto(options),
        )
    )
    return Call("RankCandidates", request, lambda r: ranking_from_proto(r.ranking))


def score(
    conversation: ConversationLike,
    response: str,
    constitution: ConstitutionRef,
    options: JudgeOptions,
) -> Call[Score | Unjudged]:
    """ScoreCandidate, read as the response's score."""
    request = _sendable(
        lambda: pb.ScoreCandidateRequest(
            **_common_fields(conversation, constitution),
            response=response,
            options=options_to_proto(options),
        )
    )
    return Call("ScoreCandidate", request, lambda r: score_from_proto(r.score))


def critique(
    conversation: ConversationLike,
    response: str,
    constitution: ConstitutionRef,
    options: WritingOptions,
) -> Call[Writing | Unjudged]:
    """CritiqueCandidate, read as the critique."""
    request = _sendable(
        lambda: pb.CritiqueCandidateRequest(
            **_common_fields(conversation, constitution),
            response=response,
            options=writing_options_to_proto(options),
        )
    )
    return Call("CritiqueCandidate", request, lambda r: writing_from_proto(r.critique))


def revise(
    conversation: ConversationLike,
    response: str,
    critique: str,
    constitution: ConstitutionRef,
    options: WritingOptions,
) -> Call[Writing | Unjudged]:
    """ReviseCandidate, read as the revised response."""
    request = _sendable(
        lambda: pb.ReviseCandidateRequest(
            **_common_fields(conversation, constitution),
            response=response,
            critique=critique,
            options=writing_options_to_proto(options),
        )
    )
    return Call("ReviseCandidate", request, lambda r: writing_from_proto(r.revision))


def preview(
    conversation: ConversationLike,
    response_a: str,
    response_b: str,
    constitution: ConstitutionRef,
    options: JudgeOptions,
) -> Call[tuple[PromptPreview, ...]]:
    """PreviewPrompt, read as a prompt for each principle and order."""
    request = _sendable(
        lambda: pb.PreviewPromptRequest(
            **_common_fields(conversation, constitution),
            response_a=response_a,
            response_b=response_b,
            options=options_to_proto(options),
        )
    )
    return Call("PreviewPrompt", request, lambda r: tuple(map(preview_from_proto, r.prompts)))


def server_info() -> Call[ServerInfo]:
    """GetServerInfo, which needs no constitution and is answered while the server loads."""
    return Call("GetServerInfo", pb.GetServerInfoRequest(), server_info_from_proto)


def constitutions() -> Call[tuple[ConstitutionSummary, ...]]:
    """ListConstitutions, read as summaries, the server's default first."""
    return Call(
        "ListConstitutions",
        pb.ListConstitutionsRequest(),
        lambda r: tuple(map(summary_from_proto, r.constitutions)),
    )


def constitution(name: str) -> Call[Constitution]:
    """GetConstitution by name or digest; "" for the server's default."""
    request = pb.GetConstitutionRequest(constitution=sendable_ref(name))
    return Call(
        "GetConstitution",
        request,
        lambda r: constitution_from_proto(r.constitution),
    )


def validate_constitution(yaml: str, source: str) -> Call[tuple[Diagnostic, ...]]:
    """ValidateConstitution of a YAML text, read as its problems; `source` names it in them."""
    request = _sendable(lambda: pb.ValidateConstitutionRequest(yaml=yaml, source=source))
    return Call(
        "ValidateConstitution",
        request,
        lambda r: tuple(map(diagnostic_from_proto, r.diagnostics)),
    )


def sendable_ref(constitution: ConstitutionRef) -> pb.ConstitutionRef:
    """The reference of a request to its constitution.

    Raises JudgeRequestError for a name or a text that protobuf cannot carry.
    """
    return _sendable(lambda: constitution_ref(constitution))


def _common_fields(conversation: ConversationLike, constitution: ConstitutionRef) -> dict[str, Any]:
    return {
        "constitution": constitution_ref(constitution),
        "conversation": conversation_to_proto(_turns(conversation)),
    }


def _turns(conversation: ConversationLike) -> Conversation:
    if isinstance(conversation, str):
        return (Message(role="user", content=conversation),)
    return conversation


def _sendable(build: Callable[[], _Request]) -> _Request:
    """The request that `build` makes, or JudgeRequestError.

    Raised for values that protobuf cannot encode, such as a lone surrogate or a number too large.
    """
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise JudgeRequestError(f"this request cannot be sent: {error}") from error
