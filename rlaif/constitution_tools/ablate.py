"""Ablation of principles: their effect on stored labels, computed from receipts without inference.

    p         Σ w_k t_k p_k / Σ w_k t_k over the principles that voted on a label
    p_-k      the same without principle k
    votes     share of labels that k voted on
    decides   share of all labels that would flip without k, or would not exist
    agrees    share of k's labels where p_k and p_-k are on the same side of ½; exactly ½ counts ½
    strength  mean |p_k - ½|           order gap   mean |p_k in order AB - p_k in order BA|

With gold, on the labels whose right answer is known:

    alone     accuracy of p_k                 drop      accuracy of p minus accuracy of p_-k

and the redundancy of two principles, over the labels that both voted on:

    r_jk = Σ x_j x_k / √(Σ x_j² Σ x_k²),  x = p - ½

Means are not subtracted in r, since it must not depend on which response happens to be A. Left out:
interactions of more than two principles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from constitution.schema import Constitution, Message
from rlaif.data.records import Preference
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.feedback.receipts import parse_receipt
from rlaif.labels.calibrate import GoldPair

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VoteTable:
    """The votes of K principles on N labels; NaN where a principle did not vote."""

    principles: tuple[str, ...]  # (K,) in the constitution's order
    weights: Floats  # (K,) weight of the principle times weight of its trait
    probs: Floats  # (N, K) P(A is better)
    order_gaps: Floats  # (N, K)
    prompts: tuple[str, ...]  # (N,) prompt keys: labels of one prompt are not independent
    right: Floats  # (N,) 1 where gold prefers A, 0 where B, NaN where unknown

    @property
    def labels(self) -> int:
        """N, the number of labels."""
        return len(self.prompts)

    @property
    def gold(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the right answer is known."""
        return ~np.isnan(self.right)


def tabulate(
    preferences: Sequence[Preference], constitution: Constitution, gold: Sequence[GoldPair] = ()
) -> VoteTable:
    """The votes of the labels made by exactly this constitution; others are left out.

    A gold pair applies to the labels with its prompt and both of its texts, or with its id and both
    of its texts. Raises RecordError for an invalid receipt.
    """
    by_id = {pair.id: pair for pair in gold}
    by_texts = {(_key(pair.prompt), _texts(pair.chosen, pair.rejected)): pair for pair in gold}
    column = {principle.id: k for k, principle in enumerate(constitution.principles)}
    probs, gaps, prompts, right = [], [], [], []
    for label in preferences:
        receipt = parse_receipt(label)
        if receipt.provenance.constitution_sha256 != constitution.digest:
            continue
        row, gap = np.full(len(column), np.nan), np.full(len(column), np.nan)
        for vote in receipt.votes:
            row[column[vote.principle_id]] = vote.prob_a
            if vote.order_gap is not None:
                gap[column[vote.principle_id]] = vote.order_gap
        # Texts first: ids of gold pairs and labels need not come from the same place.
        texts = _texts(label.chosen_text, label.rejected_text)
        gold_pair = by_texts.get((_key(label.prompt), texts)) or by_id.get(label.id)
        probs.append(row)
        gaps.append(gap)
        prompts.append(_key(label.prompt))
        right.append(_right(label, gold_pair, chosen_is_a=receipt.chosen == "A"))
    shape = (len(prompts), len(column))
    return VoteTable(
        principles=tuple(column),
        weights=np.array(
            [p.weight * constitution.trait_weights[p.trait] for p in constitution.principles]
        ),
        probs=np.array(probs).reshape(shape),
        order_gaps=np.array(gaps).reshape(shape),
        prompts=tuple(prompts),
        right=np.array(right),
    )


def _key(conversation: Sequence[Message]) -> str:
    return json.dumps([[message.role, message.content] for message in conversation])


def _texts(one: str, other: str) -> frozenset[str]:
    return frozenset({one.strip(), other.strip()})


def _right(label: Preference, gold: GoldPair | None, *, chosen_is_a: bool) -> float:
    """1.0 if gold prefers response A, 0.0 if B, NaN without gold for these two texts."""
    texts = _texts(label.chosen_text, label.rejected_text)
    if gold is None or _texts(gold.chosen, gold.rejected) != texts:
        return float("nan")
    return float((gold.chosen.strip() == label.chosen_text.strip()) == chosen_is_a)


# ── one principle at a time ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ablated:
    """One principle's effect on the labels; None where there is nothing to compute it from."""

    principle_id: str
    weight: float
    votes: float  # share of labels
    decides: float  # share of labels
    agrees: Estimate | None
    strength: float | None
    order_gap: float | None
    alone: Estimate | None  # accuracy on gold by itself
    drop: Estimate | None  # accuracy lost without it; negative: the rest is better without it


def ablate(table: VoteTable) -> tuple[Ablated, ...]:
    """Every principle's effect, in order. The table must contain at least one label."""
    whole = pooled(table.probs, table.weights)
    return tuple(_ablate(table, whole, k) for k in range(len(table.principles)))


def pooled(probs: Floats, weights: Floats) -> Floats:
    """(N,) weighted means of the votes cast, as the judge aggregates them; NaN without votes."""
    voted = ~np.isnan(probs)  # (N, K)
    total = np.where(voted, weights, 0.0).sum(axis=1)
    weighted = np.where(voted, np.nan_to_num(probs) * weights, 0.0).sum(axis=1)
    mean: Floats = np.divide(weighted, total, out=np.full(len(probs), np.nan), where=total > 0)
    return mean


def _ablate(table: VoteTable, whole: Floats, k: int) -> Ablated:
    own = table.probs[:, k]
    without = table.weights.copy()
    without[k] = 0.0
    rest = pooled(table.probs, without)
    voted = ~np.isnan(own)
    lost = np.isnan(rest) & voted
    flips = voted & ~lost & ((rest >= 0.5) != (whole >= 0.5))
    both = voted & ~np.isnan(rest)
    gaps = table.order_gaps[:, k][~np.isnan(table.order_gaps[:, k])]
    drops = correct(whole, table.right) - correct(rest, table.right)
    return Ablated(
        principle_id=table.principles[k],
        weight=float(table.weights[k]),
        votes=float(voted.mean()),
        decides=float((lost | flips).mean()),
        agrees=_share(table.prompts, np.where(both, _agreement(own, rest), np.nan)),
        strength=float(np.abs(own[voted] - 0.5).mean()) if voted.any() else None,
        order_gap=float(gaps.mean()) if len(gaps) else None,
        alone=_share(table.prompts, correct(own, table.right)),
        drop=_mean(table.prompts, drops),
    )


def _agreement(one: Floats, other: Floats) -> Floats:
    """1 on the same side of ½, 0 on different sides, ½ if one is exactly ½; NaN if one is NaN."""
    agreed: Floats = 0.5 + 0.5 * np.sign(one - 0.5) * np.sign(other - 0.5)
    return agreed


def correct(probs: Floats, right: Floats) -> Floats:
    """(N,) 1 where P(A) prefers the right response, 0 where not, ½ at exactly ½; NaN if unknown."""
    return _agreement(probs, right)


def _known(prompts: Sequence[str], values: Floats) -> list[float]:
    """The mean of each prompt, over its labels that have a value."""
    pairs = ((p, float(v)) for p, v in zip(prompts, values, strict=True) if not np.isnan(v))
    return by_prompt(pairs)


def _share(prompts: Sequence[str], values: Floats) -> Estimate | None:
    known = _known(prompts, values)
    return share_estimate(known) if known else None


def _mean(prompts: Sequence[str], values: Floats) -> Estimate | None:
    known = _known(prompts, values)
    return mean_estimate(known, -1.0, 1.0) if known else None


def accuracy(table: VoteTable) -> Estimate | None:
    """The accuracy of the labels on gold; None without gold."""
    return _share(table.prompts, correct(pooled(table.probs, table.weights), table.right))


# ── two principles at a time ─────────────────────────────────────────────────────────────────


def redundancy(probs: Floats) -> Floats:
    """(K, K) r_jk; NaN where two principles never vote on one label, or where one is always ½."""
    voted = ~np.isnan(probs)  # (N, K)
    x = np.where(voted, probs - 0.5, 0.0)  # (N, K)
    products = x.T @ x  # (K, K)
    squares = (x**2).T @ voted  # (K, K): Σ x_j² over the labels that k voted on too
    norms = np.sqrt(squares * squares.T)
    r = np.divide(products, norms, out=np.full_like(products, np.nan), where=norms > 0)
    bounded: Floats = np.clip(r, -1.0, 1.0)
    return bounded


@dataclass(frozen=True, slots=True)
class Redundant:
    """Two principles and their redundancy r, over the `labels` that both voted on."""

    one: str
    other: str
    r: float
    labels: int


def most_redundant(table: VoteTable) -> tuple[Redundant, ...]:
    """All pairs of principles with a known r, the most redundant first."""
    r, voted = redundancy(table.probs), ~np.isnan(table.probs)
    both = voted.T.astype(int) @ voted.astype(int)  # (K, K) labels that both voted on
    names = table.principles
    pairs = [
        Redundant(names[j], names[k], float(r[j, k]), int(both[j, k]))
        for j in range(len(names))
        for k in range(j + 1, len(names))
        if not np.isnan(r[j, k])
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.r))
