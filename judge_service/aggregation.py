"""Reads of orders and principles become one soft label. Pure.

    p_k = mean over the orders read of P(A | order, principle k)
    p   = sum_k w_k t_k p_k / sum_k w_k t_k        w_k weight of the principle, t_k of its trait
    p_t = sum_k w_k p_k / sum_k w_k                over the principles k of trait t

Symmetric by construction: judge(B, A) asks the same prompts and takes 1 - P of each, so its p is
1 - p. Left out: calibration and abstention.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence

from constitution.schema import Principle
from judge_service.judgment import Comparison, Order, PrincipleVote, Read, Verdict
from judge_service.reading import prob_a


def choose_principles(
    principles: Sequence[Principle], comparison: Comparison, sample: int | None, seed: int
) -> tuple[Principle, ...]:
    """Those that apply to the conversation: all, or a seeded sample of `sample` of them.

    The draw depends on the seed and on the content, not on the comparison's id nor on which
    response is called A: judge(A, B) and judge(B, A) use the same principles. They are returned
    in the constitution's order.
    """
    applying = [p for p in principles if p.applies_to(comparison.conversation)]
    if sample is None or sample >= len(applying):
        return tuple(applying)
    content = {
        "seed": seed,
        "conversation": [[m.role, m.content] for m in comparison.conversation],
        "responses": sorted((comparison.response_a, comparison.response_b)),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    drawn = random.Random(digest).sample(range(len(applying)), sample)
    return tuple(applying[i] for i in sorted(drawn))


def vote(
    principle: Principle, reads: Iterable[Read | None], min_label_mass: float
) -> PrincipleVote | None:
    """One principle's vote from its valid reads (at most one per order); None when all are void.

    A read is void when it holds no usable number (None) or its mass is under `min_label_mass`.
    """
    reads = tuple(reads)
    valid = tuple(r for r in reads if r is not None and r.label_mass >= min_label_mass)
    if not valid:
        return None
    by_order = {read.order: prob_a(read) for read in valid}
    both = len(by_order) == 2
    return PrincipleVote(
        principle_id=principle.id,
        trait=principle.trait,
        weight=principle.weight,
        prob_a=math.fsum(by_order.values()) / len(by_order),
        order_gap=abs(by_order[Order.AB] - by_order[Order.BA]) if both else None,
        reads=valid,
        void_reads=len(reads) - len(valid),
    )


def weighted_prob(votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]) -> float:
    """p of the module's equations. A trait without a weight counts 1."""
    return _mean([(v.weight * trait_weights.get(v.trait, 1.0), v.prob_a) for v in votes])


def trait_probs(votes: Sequence[PrincipleVote]) -> dict[str, float]:
    """p_t of the module's equations, for each trait that has a vote."""
    traits = sorted({v.trait for v in votes})
    return {t: _mean([(v.weight, v.prob_a) for v in votes if v.trait == t]) for t in traits}


def verdict(prob: float, tie_margin: float) -> Verdict:
    """TIE within the margin, and at exactly one half; else the likelier response."""
    if prob == 0.5 or abs(prob - 0.5) < tie_margin:
        return Verdict.TIE
    return Verdict.A if prob > 0.5 else Verdict.B


def compare_orders(
    votes: Sequence[PrincipleVote], trait_weights: Mapping[str, float]
) -> tuple[bool | None, float | None]:
    """(position_consistent, order_gap) of the judgment, over the votes that have both orders.

    Consistent: the weighted P(A) of both orders lies on the same side of one half. The gap is the
    distance between the two. (None, None) when no vote has both orders.
    """
    weighed: dict[Order, list[tuple[float, float]]] = {Order.AB: [], Order.BA: []}
    for v in votes:
        if v.order_gap is not None:
            for read in v.reads:
                weight = v.weight * trait_weights.get(v.trait, 1.0)
                weighed[read.order].append((weight, prob_a(read)))
    if not weighed[Order.AB]:
        return None, None
    ab, ba = _mean(weighed[Order.AB]), _mean(weighed[Order.BA])
    return verdict(ab, 0.0) is verdict(ba, 0.0), abs(ab - ba)


def _mean(weighed: Sequence[tuple[float, float]]) -> float:
    """Weighted mean; fsum, so that the order of the principles does not matter."""
    return math.fsum(w * x for w, x in weighed) / math.fsum(w for w, _ in weighed)
