"""The labels of a batch as tensors, and the encoded pairs that have any."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.algorithms.reward.config import LabelKind
from rlaif.algorithms.reward.corpus_labels import corpus_head_weights, labeled_of_corpus
from rlaif.algorithms.reward.heads import (
    TraitLabels,
    head_weights,
    labeled_pairs,
    labels_by_head,
)
from rlaif.batching.corpus.mapped import CorpusPairs
from rlaif.batching.encode import EncodedPairs, Pair
from rlaif.batching.unusable import BatchError
from rlaif.training.checks import report_skipped


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of B pairs for K heads: the whole pair's first, then one per trait."""

    prob_chosen: Tensor  # (B, K), 0.5 where not labeled
    labeled: Tensor  # (B, K) bool


def labels_of(pairs: Sequence[TraitLabels], traits: Sequence[str], kind: LabelKind) -> Labels:
    """Labels of B pairs for the K = 1 + len(traits) heads of `RewardHeads`, on the CPU.

    Raises TrainingError for a label that is not a probability.
    """
    table = [labels_by_head(pair, traits, kind) for pair in pairs]
    known = [[label is not None for label in row] for row in table]
    values = [[0.5 if label is None else label for label in row] for row in table]
    shape = len(pairs), 1 + len(traits)
    return Labels(
        torch.tensor(values).view(shape), torch.tensor(known, dtype=torch.bool).view(shape)
    )


def weights_by_head(
    pairs: Sequence[Pair], trait_weights: Mapping[str, float], kind: LabelKind
) -> dict[str, float]:
    """`head_weights` of encoded pairs, which may be a corpus."""
    if isinstance(pairs, CorpusPairs):
        return corpus_head_weights(pairs, trait_weights, kind)
    return head_weights(pairs, trait_weights, kind)


def without_unlabeled(
    encoded: EncodedPairs, traits: Collection[str], kind: LabelKind
) -> EncodedPairs:
    """The pairs that some head can learn from; the others are reported on stderr and skipped.

    Raises TrainingError when no pair is left.
    """
    if isinstance(encoded.pairs, CorpusPairs):
        left = labeled_of_corpus(encoded.pairs, traits, kind)
        left_out = encoded.left_out + len(encoded.pairs) - len(left)
        return EncodedPairs(left, encoded.skipped, left_out)
    pairs, reasons = labeled_pairs(encoded.pairs, traits, kind)
    report_skipped(reasons)
    return EncodedPairs(pairs, [*encoded.skipped, *map(BatchError, reasons)])
