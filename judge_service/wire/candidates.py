"""protobuf <-> domain: scores, critiques and revisions, and previews of prompts. See `wire.py`."""

from __future__ import annotations

from judge_service.types import PrincipleScore, PromptPreview, Score, Unjudged, Writing
from judge_service.v1 import judge_pb2 as pb
from judge_service.wire.enums import ORDER_OF, ORDERS
from judge_service.wire.judgments import (
    abstention_to_proto,
    is_cache_hit,
    provenance_from_proto,
    provenance_to_proto,
    unjudged_from_proto,
    usage_from_proto,
    usage_to_proto,
)


def score_to_proto(found: Score | Unjudged) -> pb.Score:
    if isinstance(found, Unjudged):
        return pb.Score(abstention=abstention_to_proto(found), usage=usage_to_proto(found.usage))
    return pb.Score(
        score=found.score,
        trait_scores=found.trait_scores,
        principle_scores=[_principle_score_to_proto(one) for one in found.principle_scores],
        provenance=provenance_to_proto(found.provenance),
        usage=usage_to_proto(found.usage),
        elapsed_seconds=found.seconds,
        cache_hit=is_cache_hit(found.usage),
    )


def score_from_proto(found: pb.Score) -> Score | Unjudged:
    if found.HasField("abstention"):
        return unjudged_from_proto(found)
    return Score(
        score=found.score,
        trait_scores=dict(found.trait_scores),
        principle_scores=tuple(_principle_score_from_proto(o) for o in found.principle_scores),
        provenance=provenance_from_proto(found.provenance),
        usage=usage_from_proto(found.usage),
        seconds=found.elapsed_seconds,
    )


def _principle_score_to_proto(one: PrincipleScore) -> pb.PrincipleScore:
    return pb.PrincipleScore(
        principle_id=one.principle_id,
        trait=one.trait,
        weight=one.weight,
        score=one.score,
        rating_probs=one.rating_probs,
        label_mass=one.label_mass,
        prompt_sha256=one.prompt_sha256,
        stored=one.stored,
    )


def _principle_score_from_proto(one: pb.PrincipleScore) -> PrincipleScore:
    return PrincipleScore(
        principle_id=one.principle_id,
        trait=one.trait,
        weight=one.weight,
        score=one.score,
        rating_probs=tuple(one.rating_probs),
        label_mass=one.label_mass,
        prompt_sha256=one.prompt_sha256,
        stored=one.stored,
    )


def writing_to_proto(found: Writing | Unjudged) -> pb.Writing:
    if isinstance(found, Unjudged):
        return pb.Writing(abstention=abstention_to_proto(found), usage=usage_to_proto(found.usage))
    return pb.Writing(
        text=found.text,
        complete=found.complete,
        principle_id=found.principle_id,
        provenance=provenance_to_proto(found.provenance),
        usage=usage_to_proto(found.usage),
        elapsed_seconds=found.seconds,
    )


def writing_from_proto(found: pb.Writing) -> Writing | Unjudged:
    if found.HasField("abstention"):
        return unjudged_from_proto(found)
    return Writing(
        text=found.text,
        complete=found.complete,
        principle_id=found.principle_id,
        provenance=provenance_from_proto(found.provenance),
        usage=usage_from_proto(found.usage),
        seconds=found.elapsed_seconds,
    )


def preview_to_proto(preview: PromptPreview) -> pb.PromptPreview:
    return pb.PromptPreview(
        principle_id=preview.principle_id,
        order=ORDERS[preview.order],
        text=preview.text,
        prompt_tokens=preview.prompt_tokens,
        labels=preview.labels,
        prompt_sha256=preview.prompt_sha256,
    )


def preview_from_proto(preview: pb.PromptPreview) -> PromptPreview:
    return PromptPreview(
        principle_id=preview.principle_id,
        order=ORDER_OF[preview.order],
        text=preview.text,
        prompt_tokens=preview.prompt_tokens,
        labels=tuple(preview.labels),
        prompt_sha256=preview.prompt_sha256,
    )
