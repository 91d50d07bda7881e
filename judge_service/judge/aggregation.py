"""Aggregation of reads over orders and principles into one soft label. Pure.

    p_k = P(A | principle k), from its reads by a protocol of label_probs.py
    p   = sum_k w_k t_k p_k / sum_k w_k t_k        w_k weight of the principle, t_k of its trait
    p_t = sum_k w_k p_k / sum_k w_k                over the principles k of trait t

Symmetric by construction: judge(B, A) asks the same prompts and takes 1 - P of each, so its p is
1 - p. Left out: calibration (calibration.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from constitution.schema import Constitution, Principle
from judge_service.judge.label_probs import DEFAULT_PROTOCOL, PROTOCOLS, prob_a
from judge_service.types import Conversation, Order, PrincipleScore, PrincipleVote, Read, Verdict


def choose_principles(
    principles: Sequence[Principle],
    conversation: Conversation,
    responses: Sequence[str],
    sample: int | None,
    seed: int,
) -> tuple[Principle, ...]:
    """The principles that apply to the conversation: all, or a seeded sample of `sample` of them.

    The draw depends on the seed and on the content, not on which response is called A: judge(A, B)
    and judge(B, A) use the same principles. They are returned in the constitution's order.
    """
    applying = [p for p in principles if p.applies_to(conversation)]
    if sample is None or sample >= len(applying):
        return tuple(applying)
    content = {
        "seed": seed,
        "conversation": [[m.role, m.content] for m in conversation],
        "responses": sorted(responses),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    drawn = random.Random(digest).sample(range(len(applying)), sample)
    return tuple(applying[i] for i in sorted(drawn))


def vote(
    principle: Principle,
    reads: Iterable[Read | None],
    min_label_mass: float,
    protocol: str = DEFAULT_PROTOCOL,
    *,
    orders: Collection[Order] = (Order.AB, Order.BA),
) -> PrincipleVote | None:
    """One principle's vote from its valid reads; None unless every order has a valid one.

    A read is void when it holds no usable number (None) or its mass is under `min_label_mass`.
    orders: those that were asked. With one of two alone, the judge's preference for a position
    would be the label: .9 where both orders together say .5.
    """
    reads = tuple(reads)
    valid = tuple(r for r in reads if r is not None and r.label_mass >= min_label_mass)
    complete = {read.order for read in valid} >= set(orders)
    prob = PROTOCOLS[protocol](valid) if valid and complete else None
    if prob is None:
        return None
    # Only pairwise reads have a position, and a gap needs a read of both.
    gap = None
    if protocol == "pairwise" and len({read.order for read in valid}) == 2:
        gap = abs(_prob_in(valid, Order.AB) - _prob_in(valid, Order.BA))
    return PrincipleVote(
        principle_id=principle.id,
        trait=principle.trait,
        weight=principle.weight,
        prob_a=prob,
        order_gap=gap,
        reads=valid,
        void_reads=len(reads) - len(valid),
    )


def reweigh(
    votes: Iterable[PrincipleVote], constitution: Constitution
) -> tuple[PrincipleVote, ...]:
    """The votes under the constitution's current weights; votes on principles it lacks are dropped.

    Costs no inference. The votes must come from the principles' current texts.
    """
    principles = {principle.id: principle for principle in constitution.principles}
    return tuple(
        replace(vote, trait=principle.trait, weight=principle.weight)
        for vote in votes
        if (principle := principles.get(vote.principle_id)) is not None
    )


def weighted_prob(votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]) -> float:
    """P(A is better): p of the module's equations. A trait without a weight has weight 1."""
    return _mean([(_weight(v, trait_weights), v.prob_a) for v in votes])


def trait_probs(votes: Sequence[PrincipleVote]) -> dict[str, float]:
    """P(A is better) by trait: p_t of the module's equations, for each trait that has a vote."""
    traits = sorted({v.trait for v in votes})
    return {t: _mean([(v.weight, v.prob_a) for v in votes if v.trait == t]) for t in traits}


def weighted_scores(
    scores: Sequence[PrincipleScore], trait_weights: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """(score, score per trait): weighted means of expected ratings, as p and p_t, in [-1, 1]."""
    overall = _mean([(s.weight * trait_weights.get(s.trait, 1.0), s.score) for s in scores])
    traits = sorted({s.trait for s in scores})
    return overall, {
        t: _mean([(s.weight, s.score) for s in scores if s.trait == t]) for t in traits
    }


def verdict(prob: float, tie_margin: float) -> Verdict:
    """TIE within the margin and at exactly 0.5; else the likelier response."""
    if prob == 0.5 or abs(prob - 0.5) < tie_margin:
        return Verdict.TIE
    return Verdict.A if prob > 0.5 else Verdict.B


def in_each_order(
    votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]
) -> tuple[float, float] | None:
    """The weighted P(A) with A shown first, and second, over the votes that have both orders.

    None when no vote has both.
    """
    both = [v for v in votes if v.order_gap is not None]
    if not both:
        return None
    ab, ba = (
        _mean([(_weight(v, trait_weights), _prob_in(v.reads, order)) for v in both])
        for order in (Order.AB, Order.BA)
    )
    return ab, ba


def compare_orders(
    votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]
) -> tuple[bool | None, float | None]:
    """(position_consistent, order_gap) of the judgment, over the votes that have both orders.

    position_consistent: the weighted P(A) of both orders lies on the same side of 0.5. order_gap:
    the absolute difference of the two. (None, None) when no vote has both orders.
    """
    probs = in_each_order(votes, trait_weights)
    if probs is None:
        return None, None
    ab, ba = probs
    return verdict(ab, 0.0) is verdict(ba, 0.0), abs(ab - ba)


def spread(votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]) -> float:
    """Weighted standard deviation of P(A) over principles and orders, in [0, 0.5]."""
    weighted: list[tuple[float, float]] = []
    for v in votes:
        weight = _weight(v, trait_weights)
        if v.order_gap is None:
            weighted.append((weight, v.prob_a))
        else:
            weighted += [(weight / 2, _prob_in(v.reads, order)) for order in Order]
    center = _mean(weighted)
    return math.sqrt(_mean([(weight, (prob - center) ** 2) for weight, prob in weighted]))


def _weight(v: PrincipleVote, trait_weights: Mapping[str, float]) -> float:
    """w_k t_k. A trait without a weight has weight 1."""
    return v.weight * trait_weights.get(v.trait, 1.0)


def _prob_in(reads: Sequence[Read], order: Order) -> float:
    return fmean(prob_a(read) for read in reads if read.order is order)


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    """Mean of (weight, value) pairs; by fsum, so that the order of the principles is irrelevant."""
    return math.fsum(w * x for w, x in weighted) / math.fsum(w for w, _ in weighted)
