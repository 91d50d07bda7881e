"""protobuf <-> domain. The only place that knows both.

`*_to_proto` write, `*_from_proto` read; a failed judgment is VERDICT_ABSTAIN on one side and
`Unjudged` on the other. `read_*` take a caller's request apart and check it: what they return can
be trusted, what they refuse is an InvalidRequest that names the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from judge_service.errors import InvalidRequest
from judge_service.judgment import (
    Comparison,
    Conversation,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleVote,
    Provenance,
    RankedCandidate,
    Ranking,
    Read,
    Unjudged,
    UnjudgedReason,
    Usage,
)
from judge_service.server_info import ServerInfo, ServerLimits, ServerState
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire_constitution import (
    ROLE_OF,
    VERDICT_OF,
    VERDICTS,
    conversation_from_proto,
    conversation_to_proto,
    inverse,
    summary_from_proto,
    summary_to_proto,
)

MAX_REQUEST_ID = 128

_ORDERS: dict[Any, Any] = {Order.AB: pb.ORDER_AB, Order.BA: pb.ORDER_BA}
_REASONS: dict[Any, Any] = {
    r: pb.AbstentionReason.Value(f"ABSTENTION_REASON_{r.name}") for r in UnjudgedReason
}
_STATES: dict[Any, Any] = {s: pb.ServerState.Value(f"SERVER_STATE_{s.name}") for s in ServerState}
_ORDER_OF, _REASON_OF, _STATE_OF = inverse(_ORDERS), inverse(_REASONS), inverse(_STATES)


# ---------------------------------------------------------------- requests, written by the client


def constitution_ref(constitution: str) -> pb.ConstitutionRef:
    """By name, by digest (64 hexadecimal digits), or "" for the server's default."""
    if re.fullmatch(r"[0-9a-f]{64}", constitution):
        return pb.ConstitutionRef(sha256=constitution)
    return pb.ConstitutionRef(name=constitution)


def compare_request(
    comparison: Comparison, constitution: str, options: JudgeOptions
) -> pb.ComparePairRequest:
    return pb.ComparePairRequest(
        constitution=constitution_ref(constitution),
        conversation=conversation_to_proto(comparison.conversation),
        response_a=comparison.response_a,
        response_b=comparison.response_b,
        options=_options(options),
    )


def rank_request(
    conversation: Conversation, candidates: Sequence[str], constitution: str, options: JudgeOptions
) -> pb.RankCandidatesRequest:
    return pb.RankCandidatesRequest(
        constitution=constitution_ref(constitution),
        conversation=conversation_to_proto(conversation),
        candidates=candidates,
        options=_options(options),
    )


def _options(options: JudgeOptions) -> pb.JudgeOptions:
    n = options.sample_principles
    return pb.JudgeOptions(
        orders=[_ORDERS[order] for order in options.orders],
        principles=pb.PRINCIPLE_SELECTION_ALL if n is None else pb.PRINCIPLE_SELECTION_SAMPLE,
        sample_size=n or 0,
        seed=options.seed,
        tie_margin=options.tie_margin,
        min_label_mass=options.min_label_mass,
        priority=pb.PRIORITY_INTERACTIVE if options.interactive else pb.PRIORITY_BULK,
    )


# ---------------------------------------------------------------- requests, read by the server


def read_comparison(request: pb.ComparePairRequest) -> Comparison:
    """The pair of a request, checked. An empty response is let through: the judge abstains."""
    _check_request_id(request.request_id)
    return Comparison(
        id=request.request_id,
        conversation=read_conversation(request.conversation),
        response_a=request.response_a,
        response_b=request.response_b,
    )


def read_candidates(request: pb.RankCandidatesRequest, most: int) -> tuple[str, ...]:
    """The candidates of a request: from 2 to `most`."""
    _check_request_id(request.request_id)
    found = len(request.candidates)
    if not 2 <= found <= most:
        raise InvalidRequest("candidates", f"{found} given; a ranking needs from 2 to {most}")
    return tuple(request.candidates)


def read_conversation(messages: Sequence[pb.Message]) -> Conversation:
    if not messages:
        raise InvalidRequest("conversation", "empty; send at least the user's turn")
    for index, message in enumerate(messages):
        if message.role not in ROLE_OF:
            known = "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT"
            raise InvalidRequest(f"conversation[{index}].role", known)
    if not messages[-1].content.strip():
        raise InvalidRequest(
            f"conversation[{len(messages) - 1}].content",
            "empty; the last turn is what the responses answer",
        )
    return conversation_from_proto(messages)


def read_options(options: pb.JudgeOptions) -> JudgeOptions:
    """Options with the defaults filled in, each in its range."""
    orders = tuple(_ORDER_OF[order] for order in options.orders if order in _ORDER_OF)
    if len(set(orders)) != len(options.orders):
        raise InvalidRequest("options.orders", "ORDER_AB and ORDER_BA, each at most once")
    sampled = options.principles == pb.PRINCIPLE_SELECTION_SAMPLE
    if sampled != (options.sample_size > 0):
        raise InvalidRequest(
            "options.sample_size",
            f"{options.sample_size}; 1 or more with PRINCIPLE_SELECTION_SAMPLE, else 0",
        )
    given = JudgeOptions()
    mass = options.min_label_mass if options.HasField("min_label_mass") else given.min_label_mass
    return JudgeOptions(
        orders=orders or given.orders,
        sample_principles=options.sample_size if sampled else None,
        seed=options.seed,
        tie_margin=_within("options.tie_margin", options.tie_margin, 0.5),
        min_label_mass=_within("options.min_label_mass", mass, 1.0),
        interactive=options.priority != pb.PRIORITY_BULK,
    )


def _within(field: str, value: float, high: float) -> float:
    if math.isnan(value) or not 0.0 <= value <= high:
        raise InvalidRequest(field, f"{value:g} is outside [0, {high:g}]")
    return value


def is_request_id(request_id: str) -> bool:
    """Whether a caller's name for a request may stand in logs."""
    return len(request_id) <= MAX_REQUEST_ID and request_id.isprintable()


def _check_request_id(request_id: str) -> None:
    if not is_request_id(request_id):
        raise InvalidRequest("request_id", f"up to {MAX_REQUEST_ID} printable characters")


# ---------------------------------------------------------------- judgments


def judgment_to_proto(found: Judgment | Unjudged) -> pb.Judgment:
    if isinstance(found, Unjudged):
        return pb.Judgment(
            verdict=pb.VERDICT_ABSTAIN,
            abstention=pb.Abstention(reason=_REASONS[found.reason], detail=found.detail),
            usage=_usage_to_proto(found.usage),
        )
    return pb.Judgment(
        verdict=VERDICTS[found.verdict],
        prob_a=found.prob_a,
        trait_probs=found.trait_probs,
        votes=[_vote_to_proto(vote) for vote in found.votes],
        position_consistent=found.position_consistent,  # type: ignore[arg-type]  # None: absent
        order_gap=found.order_gap,
        provenance=_provenance_to_proto(found.provenance),
        usage=_usage_to_proto(found.usage),
        elapsed_seconds=found.seconds,
    )


def judgment_from_proto(found: pb.Judgment) -> Judgment | Unjudged:
    if found.verdict == pb.VERDICT_ABSTAIN:
        return Unjudged(
            reason=_REASON_OF[found.abstention.reason],
            detail=found.abstention.detail,
            usage=_usage_from_proto(found.usage),
        )
    return Judgment(
        verdict=VERDICT_OF[found.verdict],
        prob_a=found.prob_a,
        trait_probs=dict(found.trait_probs),
        votes=tuple(_vote_from_proto(vote) for vote in found.votes),
        position_consistent=_optional(found, "position_consistent"),
        order_gap=_optional(found, "order_gap"),
        provenance=_provenance_from_proto(found.provenance),
        usage=_usage_from_proto(found.usage),
        seconds=found.elapsed_seconds,
    )


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _vote_to_proto(vote: PrincipleVote) -> pb.PrincipleVote:
    return pb.PrincipleVote(
        principle_id=vote.principle_id,
        trait=vote.trait,
        weight=vote.weight,
        prob_a=vote.prob_a,
        order_gap=vote.order_gap,
        reads=[
            pb.Read(
                order=_ORDERS[read.order],
                logprob_first=read.logprob_first,
                logprob_second=read.logprob_second,
                prob_first=read.prob_first,
                label_mass=read.label_mass,
                prompt_tokens=read.prompt_tokens,
                cached_tokens=read.cached_tokens,
                prompt_sha256=read.prompt_sha256,
            )
            for read in vote.reads
        ],
        void_reads=vote.void_reads,
    )


def _vote_from_proto(vote: pb.PrincipleVote) -> PrincipleVote:
    return PrincipleVote(
        principle_id=vote.principle_id,
        trait=vote.trait,
        weight=vote.weight,
        prob_a=vote.prob_a,
        order_gap=_optional(vote, "order_gap"),
        reads=tuple(
            Read(
                order=_ORDER_OF[read.order],
                logprob_first=read.logprob_first,
                logprob_second=read.logprob_second,
                prob_first=read.prob_first,
                label_mass=read.label_mass,
                prompt_tokens=read.prompt_tokens,
                cached_tokens=read.cached_tokens,
                prompt_sha256=read.prompt_sha256,
            )
            for read in vote.reads
        ),
        void_reads=vote.void_reads,
    )


def _model_to_proto(model: ModelIdentity) -> pb.ModelIdentity:
    return pb.ModelIdentity(
        name=model.name,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        dtype=model.dtype,
        engine=model.engine,
    )


def _model_from_proto(model: pb.ModelIdentity) -> ModelIdentity:
    return ModelIdentity(
        model.name, model.weights_sha256, model.tokenizer_sha256, model.dtype, model.engine
    )


def _provenance_to_proto(origin: Provenance) -> pb.Provenance:
    return pb.Provenance(
        constitution=pb.ConstitutionSummary(
            name=origin.constitution_name,
            version=origin.constitution_version,
            sha256=origin.constitution_sha256,
        ),
        model=_model_to_proto(origin.model),
        template_version=origin.template_version,
        principle_ids=origin.principle_ids,
        orders=[_ORDERS[order] for order in origin.orders],
        seed=origin.seed,
    )


def _provenance_from_proto(origin: pb.Provenance) -> Provenance:
    return Provenance(
        constitution_name=origin.constitution.name,
        constitution_version=origin.constitution.version,
        constitution_sha256=origin.constitution.sha256,
        model=_model_from_proto(origin.model),
        template_version=origin.template_version,
        principle_ids=tuple(origin.principle_ids),
        orders=tuple(_ORDER_OF[order] for order in origin.orders),
        seed=origin.seed,
    )


def _usage_to_proto(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reads=usage.reads,
    )


def _usage_from_proto(usage: pb.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, usage.reads)


def ranking_to_proto(ranking: Ranking) -> pb.Ranking:
    return pb.Ranking(
        candidates=[
            pb.RankedCandidate(
                index=c.index, rank=c.rank, strength=c.strength, standard_error=c.standard_error
            )
            for c in ranking.candidates
        ],
        pairs=[
            pb.RankedPair(index_a=a, index_b=b, judgment=judgment_to_proto(found))
            for a, b, found in ranking.pairs
        ],
        usage=_usage_to_proto(ranking.usage),
        elapsed_seconds=ranking.seconds,
    )


def ranking_from_proto(ranking: pb.Ranking) -> Ranking:
    return Ranking(
        candidates=tuple(
            RankedCandidate(c.index, c.rank, c.strength, c.standard_error)
            for c in ranking.candidates
        ),
        pairs=tuple(
            (pair.index_a, pair.index_b, judgment_from_proto(pair.judgment))
            for pair in ranking.pairs
        ),
        usage=_usage_from_proto(ranking.usage),
        seconds=ranking.elapsed_seconds,
    )


# ---------------------------------------------------------------- the server


def server_info_to_proto(info: ServerInfo) -> pb.GetServerInfoResponse:
    limits = info.limits
    return pb.GetServerInfoResponse(
        state=_STATES[info.state],
        version=info.version,
        model=None if info.model is None else _model_to_proto(info.model),
        template_version=info.template_version,
        limits=pb.ServerLimits(
            max_context_tokens=limits.max_context_tokens,
            max_message_bytes=limits.max_message_bytes,
            max_candidates=limits.max_candidates,
            max_stream_in_flight=limits.max_stream_in_flight,
            max_concurrent_rpcs=limits.max_concurrent_rpcs,
        ),
        capabilities=info.capabilities,
        constitutions=[summary_to_proto(summary) for summary in info.constitutions],
    )


def server_info_from_proto(info: pb.GetServerInfoResponse) -> ServerInfo:
    limits = info.limits
    return ServerInfo(
        state=_STATE_OF[info.state],
        version=info.version,
        model=_model_from_proto(info.model) if info.HasField("model") else None,
        template_version=info.template_version,
        limits=ServerLimits(
            max_context_tokens=limits.max_context_tokens,
            max_message_bytes=limits.max_message_bytes,
            max_candidates=limits.max_candidates,
            max_stream_in_flight=limits.max_stream_in_flight,
            max_concurrent_rpcs=limits.max_concurrent_rpcs,
        ),
        capabilities=tuple(info.capabilities),
        constitutions=tuple(summary_from_proto(summary) for summary in info.constitutions),
    )
