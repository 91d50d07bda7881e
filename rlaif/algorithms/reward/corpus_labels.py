"""The traits and the labeled pairs of a corpus, by its columns. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rlaif.algorithms.reward.config import LabelKind
from rlaif.algorithms.reward.heads import none_labeled, require_weights
from rlaif.batching.corpus.mapped import CorpusPairs
from rlaif.batching.corpus.selection import seen_traits, with_side


def corpus_head_weights(
    pairs: CorpusPairs, trait_weights: Mapping[str, float], kind: LabelKind
) -> dict[str, float]:
    """`head_weights` of a corpus. Raises TrainingError for a labeled trait without a weight."""
    seen, sided = seen_traits(pairs)
    require_weights(seen, trait_weights)
    return {t: trait_weights[t] for t in sorted(sided if kind == "hard" else seen)}


def labeled_of_corpus(pairs: CorpusPairs, traits: Collection[str], kind: LabelKind) -> CorpusPairs:
    """The pairs that some head can learn from. Raises TrainingError when none is left."""
    left = with_side(pairs, sorted(traits)) if kind == "hard" else pairs
    if not left:
        raise none_labeled(len(pairs), f"{pairs.corpus.name(pairs.row(0))}: no side", kind)
    return left
