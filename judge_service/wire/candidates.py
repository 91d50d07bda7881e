"""Conversion between protobuf and domain types: scores, critiques, revisions, prompt previews."""

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


def score_to_proto(score: Score | Unjudged) -> pb.Score:
    """A Score message; Unjudged becomes its abstention, without a score."""
    if isinstance(score, Unjudged):
        return pb.Score(abstention=abstention_to_proto(score), usage=usage_to_proto(score.usage))
    return pb.Score(
        score=score.score,
        trait_scores=score.trait_scores,
        principle_scores=[_principle_score_to_proto(s) for s in score.principle_scores],
        provenance=provenance_to_proto(score.provenance),
        usage=usage_to_proto(score.usage),
        elapsed_seconds=score.seconds,
        cache_hit=is_cache_hit(score.usage),
    )


def score_from_proto(score: pb.Score) -> Score | Unjudged:
    """The score, or Unjudged where the message holds an abstention."""
    if score.HasField("abstention"):
        return unjudged_from_proto(score)
    return Score(
        score=score.score,
        trait_scores=dict(score.trait_scores),
        principle_scores=tuple(_principle_score_from_proto(s) for s in score.principle_scores),
        provenance=provenance_from_proto(score.provenance),
        usage=usage_from_proto(score.usage),
        seconds=score.elapsed_seconds,
    )


def _principle_score_to_proto(score: PrincipleScore) -> pb.PrincipleScore:
    return pb.PrincipleScore(
        principle_id=score.principle_id,
        trait=score.trait,
        weight=score.weight,
        score=score.score,
        rating_probs=score.rating_probs,
        label_mass=score.label_mass,
        prompt_sha256=score.prompt_sha256,
        stored=score.stored,
    )


def _principle_score_from_proto(score: pb.PrincipleScore) -> PrincipleScore:
    return PrincipleScore(
        principle_id=score.principle_id,
        trait=score.trait,
        weight=score.weight,
        score=score.score,
        rating_probs=tuple(score.rating_probs),
        label_mass=score.label_mass,
        prompt_sha256=score.prompt_sha256,
        stored=score.stored,
    )


def writing_to_proto(writing: Writing | Unjudged) -> pb.Writing:
    """A Writing message, for a critique and a revision alike; Unjudged becomes its abstention."""
    if isinstance(writing, Unjudged):
        return pb.Writing(
            abstention=abstention_to_proto(writing), usage=usage_to_proto(writing.usage)
        )
    return pb.Writing(
        text=writing.text,
        complete=writing.complete,
        principle_id=writing.principle_id,
        provenance=provenance_to_proto(writing.provenance),
        usage=usage_to_proto(writing.usage),
        elapsed_seconds=writing.seconds,
    )


def writing_from_proto(writing: pb.Writing) -> Writing | Unjudged:
    """The critique or revision, or Unjudged where the message holds an abstention."""
    if writing.HasField("abstention"):
        return unjudged_from_proto(writing)
    return Writing(
        text=writing.text,
        complete=writing.complete,
        principle_id=writing.principle_id,
        provenance=provenance_from_proto(writing.provenance),
        usage=usage_from_proto(writing.usage),
        seconds=writing.elapsed_seconds,
    )


def preview_to_proto(preview: PromptPreview) -> pb.PromptPreview:
    """One prompt as PreviewPrompt returns it: its text, token count, labels and digest."""
    return pb.PromptPreview(
        principle_id=preview.principle_id,
        order=ORDERS[preview.order],
        text=preview.text,
        prompt_tokens=preview.prompt_tokens,
        labels=preview.labels,
        prompt_sha256=preview.prompt_sha256,
    )


def preview_from_proto(preview: pb.PromptPreview) -> PromptPreview:
    """Inverse of `preview_to_proto`."""
    return PromptPreview(
        principle_id=preview.principle_id,
        order=ORDER_OF[preview.order],
        text=preview.text,
        prompt_tokens=preview.prompt_tokens,
        labels=tuple(preview.labels),
        prompt_sha256=preview.prompt_sha256,
    )
