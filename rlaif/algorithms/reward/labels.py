"""The labels that each head learns from, and the pairs and heads that have any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.algorithms.reward.config import LabelKind
from rlaif.batching.encode import EncodedPairs, Pair
from rlaif.training.checks import report_skipped
from rlaif.training.config import TrainingError


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of B pairs for K heads."""

    prob_chosen: Tensor  # (B, K), 0.5 where not labeled
    labeled: Tensor  # (B, K) bool


def labels_of(pairs: Sequence[Pair], names: Sequence[str], kind: LabelKind) -> Labels:
    """Each pair's label for each head."""
    table = [[label_of(pair, name, kind) for name in names] for pair in pairs]
    known = [[label is not None for label in row] for row in table]
    values = [[0.5 if label is None else label for label in row] for row in table]
    shape = len(pairs), len(names)
    return Labels(
        torch.tensor(values).view(shape), torch.tensor(known, dtype=torch.bool).view(shape)
    )


def label_of(pair: Pair, name: str, kind: LabelKind) -> float | None:
    """A pair's label for one head, None where there is none; "overall" reads the pair's own.

    Raises TrainingError for a label that is not a probability.
    """
    p = pair.prob_chosen if name == "overall" else pair.traits.get(name)
    if p is None:
        return None
    if not 0 <= p <= 1:  # NaN too
        raise TrainingError(
            f"{pair.id}: the label for {name} is not a probability: {p}; fix the record"
        )
    if kind == "hard":
        return None if p == 0.5 else float(p > 0.5)
    return p


def head_weights(
    pairs: Sequence[Pair], trait_weights: Mapping[str, float], kind: LabelKind
) -> dict[str, float]:
    """The heads to train with their weights in the overall score, in sorted order; "overall" where
    no pair has a trait label at all.

    A trait without any label gets no head, which would stay random. Raises TrainingError for a
    labeled trait without a weight.
    """
    seen = {trait for pair in pairs for trait, label in pair.traits.items() if label is not None}
    unknown = sorted(seen - trait_weights.keys())
    if unknown:
        raise TrainingError(
            f"unknown trait in the labels: {unknown[0]!r}; known: "
            f"{', '.join(sorted(trait_weights)) or 'none'}; give the constitution that made them"
        )
    if not seen:
        return {"overall": 1.0}
    return {
        trait: trait_weights[trait]
        for trait in sorted(seen)
        if any(label_of(pair, trait, kind) is not None for pair in pairs)
    }


def without_unlabeled(
    encoded: EncodedPairs, heads: Mapping[str, float], kind: LabelKind
) -> EncodedPairs:
    """Leave out the pairs that no head can learn from, so that every batch has a label, and name
    them on stderr. Raises TrainingError when none is left."""
    pairs: list[Pair] = []
    reasons: list[str] = []
    for pair in encoded.pairs:
        labels = [label_of(pair, name, kind) for name in heads]  # all are checked: a bad one raises
        if any(label is not None for label in labels):
            pairs.append(pair)
        else:
            why = "no trait label" if kind == "soft" else "no label with a side"
            reasons.append(f"{pair.id}: {why}")
    if not pairs:
        raise TrainingError(
            f"none of the {len(reasons)} pairs has a label to learn from ({reasons[0]}); "
            "label more pairs" + (", or set labels=soft" if kind == "hard" else "")
        )
    report_skipped(reasons)
    return EncodedPairs(pairs, encoded.skipped + reasons)
