"""Conversion between protobuf and domain types: judgments, rankings, server info.

`*_to_proto` writes, `*_from_proto` reads. A failed judgment is VERDICT_ABSTAIN in protobuf and
`Unjudged` in the domain.
"""

from __future__ import annotations

from typing import Any

from judge_service.server_info import FittedCalibration, ServerInfo, ServerLimits
from judge_service.types import (
    Judgment,
    ModelIdentity,
    PrincipleVote,
    Provenance,
    RankedCandidate,
    Ranking,
    Read,
    Unjudged,
    Usage,
)
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.constitutions import summary_from_proto, summary_to_proto
from judge_service.wire.enums import (
    ORDER_OF,
    ORDERS,
    REASON_OF,
    REASONS,
    STATE_OF,
    STATES,
    VERDICT_OF,
    VERDICTS,
)

# ---------------------------------------------------------------- judgments


def judgment_to_proto(judgment: Judgment | Unjudged) -> pb.Judgment:
    """A Judgment message; Unjudged becomes VERDICT_ABSTAIN with its reason."""
    if isinstance(judgment, Unjudged):
        return pb.Judgment(
            verdict=pb.VERDICT_ABSTAIN,
            abstention=abstention_to_proto(judgment),
            usage=usage_to_proto(judgment.usage),
        )
    return pb.Judgment(
        verdict=VERDICTS[judgment.verdict],
        prob_a=judgment.prob_a,
        trait_probs=judgment.trait_probs,
        votes=[_vote_to_proto(vote) for vote in judgment.votes],
        position_consistent=judgment.position_consistent,  # type: ignore[arg-type]  # None: absent
        order_gap=judgment.order_gap,
        provenance=provenance_to_proto(judgment.provenance),
        usage=usage_to_proto(judgment.usage),
        elapsed_seconds=judgment.seconds,
        raw_prob_a=judgment.raw_prob_a,
        spread=judgment.spread,
        cache_hit=is_cache_hit(judgment.usage),
    )


def judgment_from_proto(judgment: pb.Judgment) -> Judgment | Unjudged:
    """The judgment, or Unjudged for VERDICT_ABSTAIN."""
    if judgment.verdict == pb.VERDICT_ABSTAIN:
        return unjudged_from_proto(judgment)
    return Judgment(
        verdict=VERDICT_OF[judgment.verdict],
        prob_a=judgment.prob_a,
        trait_probs=dict(judgment.trait_probs),
        votes=tuple(_vote_from_proto(vote) for vote in judgment.votes),
        position_consistent=optional(judgment, "position_consistent"),
        order_gap=optional(judgment, "order_gap"),
        provenance=provenance_from_proto(judgment.provenance),
        usage=usage_from_proto(judgment.usage),
        seconds=judgment.elapsed_seconds,
        raw_prob_a=optional(judgment, "raw_prob_a"),
        spread=judgment.spread,
    )


def abstention_to_proto(unjudged: Unjudged) -> pb.Abstention:
    """The reason and the detail of an Unjudged; its usage belongs to the message around it."""
    return pb.Abstention(reason=REASONS[unjudged.reason], detail=unjudged.detail)


def unjudged_from_proto(message: Any) -> Unjudged:
    """The Unjudged of any message with an abstention and a usage: Judgment, Score or Writing."""
    return Unjudged(
        reason=REASON_OF[message.abstention.reason],
        detail=message.abstention.detail,
        usage=usage_from_proto(message.usage),
    )


def is_cache_hit(usage: Usage) -> bool:
    """Whether every read came from the store."""
    return usage.stored_reads > 0 and usage.reads == 0


def optional(message: Any, field: str) -> Any:
    """The value of an optional field; None when it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def _vote_to_proto(vote: PrincipleVote) -> pb.PrincipleVote:
    return pb.PrincipleVote(
        principle_id=vote.principle_id,
        trait=vote.trait,
        weight=vote.weight,
        prob_a=vote.prob_a,
        order_gap=vote.order_gap,
        reads=[_read_to_proto(read) for read in vote.reads],
        void_reads=vote.void_reads,
    )


def _vote_from_proto(vote: pb.PrincipleVote) -> PrincipleVote:
    return PrincipleVote(
        principle_id=vote.principle_id,
        trait=vote.trait,
        weight=vote.weight,
        prob_a=vote.prob_a,
        order_gap=optional(vote, "order_gap"),
        reads=tuple(_read_from_proto(read) for read in vote.reads),
        void_reads=vote.void_reads,
    )


def _read_to_proto(read: Read) -> pb.Read:
    return pb.Read(
        order=ORDERS[read.order],
        logprob_first=read.logprob_first,
        logprob_second=read.logprob_second,
        prob_first=read.prob_first,
        label_mass=read.label_mass,
        prompt_tokens=read.prompt_tokens,
        cached_tokens=read.cached_tokens,
        prompt_sha256=read.prompt_sha256,
        stored=read.stored,
        rationale=read.rationale,
    )


def _read_from_proto(read: pb.Read) -> Read:
    return Read(
        order=ORDER_OF[read.order],
        logprob_first=read.logprob_first,
        logprob_second=read.logprob_second,
        prob_first=read.prob_first,
        label_mass=read.label_mass,
        prompt_tokens=read.prompt_tokens,
        cached_tokens=read.cached_tokens,
        prompt_sha256=read.prompt_sha256,
        stored=read.stored,
        rationale=read.rationale,
    )


def model_to_proto(model: ModelIdentity) -> pb.ModelIdentity:
    """The judge's weights, tokenizer and arithmetic, as receipts name them."""
    return pb.ModelIdentity(
        name=model.name,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        dtype=model.dtype,
        engine=model.engine,
    )


def model_from_proto(model: pb.ModelIdentity) -> ModelIdentity:
    """Inverse of `model_to_proto`."""
    return ModelIdentity(
        model.name, model.weights_sha256, model.tokenizer_sha256, model.dtype, model.engine
    )


def provenance_to_proto(provenance: Provenance) -> pb.Provenance:
    """The receipt of a judgment, score or writing."""
    return pb.Provenance(
        constitution=pb.ConstitutionSummary(
            name=provenance.constitution_name,
            version=provenance.constitution_version,
            sha256=provenance.constitution_sha256,
        ),
        model=model_to_proto(provenance.model),
        template_version=provenance.template_version,
        principle_ids=provenance.principle_ids,
        orders=[ORDERS[order] for order in provenance.orders],
        seed=provenance.seed,
        protocol=provenance.protocol,
        calibration=provenance.calibration,
        reader=provenance.reader,
    )


def provenance_from_proto(provenance: pb.Provenance) -> Provenance:
    """Inverse of `provenance_to_proto`."""
    return Provenance(
        constitution_name=provenance.constitution.name,
        constitution_version=provenance.constitution.version,
        constitution_sha256=provenance.constitution.sha256,
        model=model_from_proto(provenance.model),
        template_version=provenance.template_version,
        principle_ids=tuple(provenance.principle_ids),
        orders=tuple(ORDER_OF[order] for order in provenance.orders),
        seed=provenance.seed,
        protocol=provenance.protocol,
        calibration=provenance.calibration,
        reader=provenance.reader,
    )


def usage_to_proto(usage: Usage) -> pb.Usage:
    """The tokens and reads that a request cost; stored reads are counted apart."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reads=usage.reads,
        stored_reads=usage.stored_reads,
    )


def usage_from_proto(usage: pb.Usage) -> Usage:
    """Inverse of `usage_to_proto`."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        reads=usage.reads,
        stored_reads=usage.stored_reads,
    )


def ranking_to_proto(ranking: Ranking) -> pb.Ranking:
    """A Ranking message, without its pairs."""
    return pb.Ranking(
        candidates=[
            pb.RankedCandidate(
                index=c.index, rank=c.rank, strength=c.strength, standard_error=c.standard_error
            )
            for c in ranking.candidates
        ],
        usage=usage_to_proto(ranking.usage),
        elapsed_seconds=ranking.seconds,
    )


def ranked_pair_to_proto(a: int, b: int, judgment: Judgment | Unjudged) -> pb.RankedPair:
    """The judgment of one pair of a ranking, candidates a and b."""
    return pb.RankedPair(index_a=a, index_b=b, judgment=judgment_to_proto(judgment))


def ranking_from_proto(ranking: pb.Ranking) -> Ranking:
    """Inverse of `ranking_to_proto`."""
    return Ranking(
        candidates=tuple(
            RankedCandidate(c.index, c.rank, c.strength, c.standard_error)
            for c in ranking.candidates
        ),
        pairs=tuple(
            (pair.index_a, pair.index_b, judgment_from_proto(pair.judgment))
            for pair in ranking.pairs
        ),
        usage=usage_from_proto(ranking.usage),
        seconds=ranking.elapsed_seconds,
    )


# ---------------------------------------------------------------- the server


def server_info_to_proto(info: ServerInfo) -> pb.GetServerInfoResponse:
    """The answer to GetServerInfo; `model` is absent until the engine is loaded."""
    limits = info.limits
    return pb.GetServerInfoResponse(
        state=STATES[info.state],
        version=info.version,
        model=None if info.model is None else model_to_proto(info.model),
        template_version=info.template_version,
        limits=pb.ServerLimits(
            max_context_tokens=limits.max_context_tokens,
            max_message_bytes=limits.max_message_bytes,
            max_candidates=limits.max_candidates,
            max_stream_in_flight=limits.max_stream_in_flight,
            max_concurrent_rpcs=limits.max_concurrent_rpcs,
            max_rationale_tokens=limits.max_rationale_tokens,
            max_write_tokens=limits.max_write_tokens,
        ),
        capabilities=info.capabilities,
        constitutions=[summary_to_proto(summary) for summary in info.constitutions],
        protocols=info.protocols,
        inline_constitutions=info.inline_constitutions,
        calibrations=[
            pb.FittedCalibration(
                constitution_sha256=fitted.constitution_sha256,
                protocol=fitted.protocol,
                sha256=fitted.sha256,
            )
            for fitted in info.calibrations
        ],
    )


def server_info_from_proto(info: pb.GetServerInfoResponse) -> ServerInfo:
    """Inverse of `server_info_to_proto`."""
    limits = info.limits
    return ServerInfo(
        state=STATE_OF[info.state],
        version=info.version,
        model=model_from_proto(info.model) if info.HasField("model") else None,
        template_version=info.template_version,
        limits=ServerLimits(
            max_context_tokens=limits.max_context_tokens,
            max_message_bytes=limits.max_message_bytes,
            max_candidates=limits.max_candidates,
            max_stream_in_flight=limits.max_stream_in_flight,
            max_concurrent_rpcs=limits.max_concurrent_rpcs,
            max_rationale_tokens=limits.max_rationale_tokens,
            max_write_tokens=limits.max_write_tokens,
        ),
        capabilities=tuple(info.capabilities),
        constitutions=tuple(summary_from_proto(summary) for summary in info.constitutions),
        protocols=tuple(info.protocols),
        inline_constitutions=info.inline_constitutions,
        calibrations=tuple(
            FittedCalibration(fitted.constitution_sha256, fitted.protocol, fitted.sha256)
            for fitted in info.calibrations
        ),
    )
