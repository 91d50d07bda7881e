"""What each principle does to stored labels, from the votes in their receipts: no inference.

    p         Σ w_k t_k p_k / Σ w_k t_k over the principles that voted on a label
    p_-k      the same without principle k: the verdict of the rest
    votes     share of labels that k votes on
    decides   share of all labels that fall to the other response without k, or would not exist
    agrees    share of k's labels where p_k and p_-k are on one side of one half; ½ for exactly ½
    strength  mean |p_k - ½|           order gap   mean |p_k in order AB - p_k in order BA|

With gold, on the labels whose right answer is known:

    alone     share that p_k gets right       drop      accuracy of p less accuracy of p_-k

and how far two principles say the same, over the labels that both vote on:

    r_jk = Σ x_j x_k / √(Σ x_j² Σ x_k²),  x = p - ½

Means are not taken off in r: which response is called A means nothing, and r must not depend on it.
Left out: interactions of more than two principles.
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
    """The votes of N labels by K principles; NaN where a principle did not vote."""

    principles: tuple[str, ...]  # (K,) in the constitution's order
    weights: Floats  # (K,) in effect: principle times trait
    probs: Floats  # (N, K) P(A is better)
    order_gaps: Floats  # (N, K)
    prompts: tuple[str, ...]  # (N,) a key each: labels of one prompt are not independent
    right: Floats  # (N,) 1 where gold says A, 0 where B, NaN where it does not say

    @property
    def labels(self) -> int:
        return len(self.prompts)

    @property
    def gold(self) -> npt.NDArray[np.bool_]:
        """(N,) where the right answer is known."""
        return ~np.isnan(self.right)


def tabulate(
    preferences: Sequence[Preference], law: Constitution, gold: Sequence[GoldPair] = ()
) -> VoteTable:
    """The votes of the labels that were made under `law` to the letter; others are left out.

    A gold pair tells of the label with its id, or else of that with its prompt and both texts, and
    only when the texts are the same two. Raises RecordError for a receipt that cannot be read.
    """
    by_id = {pair.id: pair for pair in gold}
    by_texts = {(_key(pair.prompt), _texts(pair.chosen, pair.rejected)): pair for pair in gold}
    place = {principle.id: k for k, principle in enumerate(law.principles)}
    probs, gaps, prompts, right = [], [], [], []
    for label in preferences:
        receipt = parse_receipt(label)
        if receipt.provenance.constitution_sha256 != law.digest:
            continue
        row, gap = np.full(len(place), np.nan), np.full(len(place), np.nan)
        for vote in receipt.votes:
            row[place[vote.principle_id]] = vote.prob_a
            if vote.order_gap is not None:
                gap[place[vote.principle_id]] = vote.order_gap
        texts = _texts(label.chosen_text, label.rejected_text)
        known = by_texts.get((_key(label.prompt), texts)) or by_id.get(label.id)
        probs.append(row)
        gaps.append(gap)
        prompts.append(_key(label.prompt))
        right.append(_right(label, known, chosen_is_a=receipt.chosen == "A"))
    shape = (len(prompts), len(place))
    return VoteTable(
        principles=tuple(place),
        weights=np.array([p.weight * law.trait_weights[p.trait] for p in law.principles]),
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
    """1.0 when gold prefers response A, 0.0 for B, NaN when it is about other texts."""
    texts = _texts(label.chosen_text, label.rejected_text)
    if gold is None or _texts(gold.chosen, gold.rejected) != texts:
        return float("nan")
    return float((gold.chosen.strip() == label.chosen_text.strip()) == chosen_is_a)


# ── one principle at a time ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ablated:
    """One principle's part in the labels; None where there is nothing to tell it from."""

    principle_id: str
    weight: float
    votes: float  # share of labels
    decides: float  # share of labels
    agrees: Estimate | None
    strength: float | None
    order_gap: float | None
    alone: Estimate | None  # accuracy on gold by itself
    drop: Estimate | None  # accuracy that goes when it goes; under 0, the rest is better without


def ablate(table: VoteTable) -> tuple[Ablated, ...]:
    """Every principle's part. The table holds at least one label."""
    whole = pooled(table.probs, table.weights)
    return tuple(_ablate(table, whole, k) for k in range(len(table.principles)))


def pooled(probs: Floats, weights: Floats) -> Floats:
    """(N,) the judge's weighted mean over the votes there are; NaN without any."""
    there = ~np.isnan(probs)
    total = np.where(there, weights, 0.0).sum(axis=1)
    weighed = np.where(there, np.nan_to_num(probs) * weights, 0.0).sum(axis=1)
    mean: Floats = np.divide(weighed, total, out=np.full(len(probs), np.nan), where=total > 0)
    return mean


def _ablate(table: VoteTable, whole: Floats, k: int) -> Ablated:
    own = table.probs[:, k]
    without = table.weights.copy()
    without[k] = 0.0
    rest = pooled(table.probs, without)
    voted = ~np.isnan(own)
    lost = np.isnan(rest) & voted
    flips = voted & ~lost & ((rest >= 0.5) != (whole >= 0.5))
    beside = voted & ~np.isnan(rest)
    gaps = table.order_gaps[:, k][~np.isnan(table.order_gaps[:, k])]
    drops = correct(whole, table.right) - correct(rest, table.right)
    return Ablated(
        principle_id=table.principles[k],
        weight=float(table.weights[k]),
        votes=float(voted.mean()),
        decides=float((lost | flips).mean()),
        agrees=_share(table.prompts, np.where(beside, _agreement(own, rest), np.nan)),
        strength=float(np.abs(own[voted] - 0.5).mean()) if voted.any() else None,
        order_gap=float(gaps.mean()) if len(gaps) else None,
        alone=_share(table.prompts, correct(own, table.right)),
        drop=_mean(table.prompts, drops),
    )


def _agreement(one: Floats, other: Floats) -> Floats:
    """1 on one side of one half, 0 on both, ½ where one is exactly ½; NaN where one is absent."""
    agreed: Floats = 0.5 + 0.5 * np.sign(one - 0.5) * np.sign(other - 0.5)
    return agreed


def correct(probs: Floats, right: Floats) -> Floats:
    """(N,) 1 where P(A) names the right response, ½ where it is exactly ½; NaN where unknown."""
    return _agreement(probs, right)


def _known(prompts: Sequence[str], values: Floats) -> list[float]:
    """The mean of each prompt, over the labels that have a value."""
    there = ((p, float(v)) for p, v in zip(prompts, values, strict=True) if not np.isnan(v))
    return by_prompt(there)


def _share(prompts: Sequence[str], values: Floats) -> Estimate | None:
    known = _known(prompts, values)
    return share_estimate(known) if known else None


def _mean(prompts: Sequence[str], values: Floats) -> Estimate | None:
    known = _known(prompts, values)
    return mean_estimate(known, -1.0, 1.0) if known else None


def accuracy(table: VoteTable) -> Estimate | None:
    """Of the labels as they are, on gold; None without gold."""
    return _share(table.prompts, correct(pooled(table.probs, table.weights), table.right))


# ── two principles at a time ─────────────────────────────────────────────────────────────────


def redundancy(probs: Floats) -> Floats:
    """(K, K) r of the module's equations; NaN where two never vote on one label, or never lean."""
    there = ~np.isnan(probs)
    x = np.where(there, probs - 0.5, 0.0)  # (N, K)
    products = x.T @ x
    squares = (x**2).T @ there  # (K, K): Σ x_j² over the labels that k votes on too
    norms = np.sqrt(squares * squares.T)
    r = np.divide(products, norms, out=np.full_like(products, np.nan), where=norms > 0)
    bounded: Floats = np.clip(r, -1.0, 1.0)
    return bounded


@dataclass(frozen=True, slots=True)
class Redundant:
    """Two principles and how far they say the same; `labels` that both vote on."""

    one: str
    other: str
    r: float
    labels: int


def most_redundant(table: VoteTable) -> tuple[Redundant, ...]:
    """All pairs of principles that can be told, the most alike first."""
    r, there = redundancy(table.probs), ~np.isnan(table.probs)
    both = there.T.astype(int) @ there.astype(int)
    names = table.principles
    pairs = [
        Redundant(names[j], names[k], float(r[j, k]), int(both[j, k]))
        for j in range(len(names))
        for k in range(j + 1, len(names))
        if not np.isnan(r[j, k])
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.r))
