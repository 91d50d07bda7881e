"""The labels of a batch as tensors, and the encoded pairs that have any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.algorithms.reward.config import LabelKind
from rlaif.algorithms.reward.heads import label_of, labeled_pairs
from rlaif.batching.encode import EncodedPairs, Pair
from rlaif.training.checks import report_skipped


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


def without_unlabeled(
    encoded: EncodedPairs, heads: Mapping[str, float], kind: LabelKind
) -> EncodedPairs:
    """Leave out the pairs that no head can learn from, so that every batch has a label, and name
    them on stderr. Raises TrainingError when none is left."""
    pairs, reasons = labeled_pairs(encoded.pairs, heads, kind)
    report_skipped(reasons)
    return EncodedPairs(pairs, encoded.skipped + reasons)
