"""The traits that get a head, and each pair's label for it. Imports no torch.

A pair is a Preference, or one as token ids (batching/encode.py): what counts is its labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from rlaif.algorithms.reward.config import LabelKind
from rlaif.training.config import TrainingError


class TraitLabels(Protocol):
    """A pair's labels."""

    @property
    def id(self) -> str:
        """The pair's name in messages."""

    @property
    def prob_chosen(self) -> float:
        """P(chosen is better)."""

    @property
    def traits(self) -> Mapping[str, float | None]:
        """P(chosen is better) per trait, None where not judged."""


PairT = TypeVar("PairT", bound=TraitLabels)


def label_of(pair: TraitLabels, name: str, kind: LabelKind) -> float | None:
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
    pairs: Sequence[TraitLabels], trait_weights: Mapping[str, float], kind: LabelKind
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


def labeled_pairs(
    pairs: Sequence[PairT], heads: Mapping[str, float], kind: LabelKind
) -> tuple[list[PairT], list[str]]:
    """(the pairs that some head can learn from, the reason for each of the others).

    Raises TrainingError when none is left.
    """
    usable: list[PairT] = []
    reasons: list[str] = []
    for pair in pairs:
        labels = [label_of(pair, name, kind) for name in heads]  # all are checked: a bad one raises
        if any(label is not None for label in labels):
            usable.append(pair)
        else:
            why = "no trait label" if kind == "soft" else "no label with a side"
            reasons.append(f"{pair.id}: {why}")
    if not usable:
        first = reasons[0] if reasons else "no pairs were given"
        raise TrainingError(
            f"none of the {len(reasons)} pairs has a label to learn from ({first}); "
            "label more pairs" + (", or set label_kind=soft" if kind == "hard" else "")
        )
    return usable, reasons
