"""Labels of reward-model heads, and the selection of the pairs and heads that have any."""

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
    """Labels of the pairs for the heads `names`, on the CPU; B pairs, K names.

    Raises TrainingError for a label that is not a probability.
    """
    table = [[label_of(pair, name, kind) for name in names] for pair in pairs]
    known = [[label is not None for label in row] for row in table]
    values = [[0.5 if label is None else label for label in row] for row in table]
    shape = len(pairs), len(names)
    return Labels(
        torch.tensor(values).view(shape), torch.tensor(known, dtype=torch.bool).view(shape)
    )


def label_of(pair: Pair, name: str, kind: LabelKind) -> float | None:
    """P(chosen is better) by one trait, or None without a label; "overall" is the whole pair's.

    kind="hard" rounds to 0 or 1, and gives None at exactly ½. Raises TrainingError for a
    label that is not a probability.
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
    """Heads to train, sorted by name, with their weights in the overall score.

    {"overall": 1.0} when no pair has a trait label. A trait without any label gets no head, since
    it would stay random. Raises TrainingError for a labeled trait without a weight.
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
    """The pairs that some head can learn from; the others are reported on stderr and skipped.

    Raises TrainingError when no pair is left.
    """
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
