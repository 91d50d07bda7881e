"""The traits that get a head, and each pair's labels. Imports no torch.

A pair is a Preference, or one as token ids (batching/encode.py): what counts is its labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


def labels_by_head(pair: TraitLabels, traits: Iterable[str], kind: LabelKind) -> list[float | None]:
    """P(chosen is better) as a whole, then by each of the traits; None without a label.

    kind="hard" rounds to 0 or 1, and gives None at exactly ½. Raises TrainingError for a
    label that is not a probability.
    """
    by_trait = [_target(pair, f"the label for {t}", pair.traits.get(t), kind) for t in traits]
    return [_target(pair, "prob_chosen", pair.prob_chosen, kind), *by_trait]


def _target(pair: TraitLabels, name: str, p: float | None, kind: LabelKind) -> float | None:
    if p is None:
        return None
    if not 0 <= p <= 1:  # NaN too
        raise TrainingError(f"{pair.id}: {name} is not a probability: {p}; fix the record")
    if kind == "hard":
        return None if p == 0.5 else float(p > 0.5)
    return p


def head_weights(
    pairs: Sequence[TraitLabels], trait_weights: Mapping[str, float], kind: LabelKind
) -> dict[str, float]:
    """Traits that get a head beside the label's own, sorted by name, with their weights.

    A trait without any label gets none, since its head would stay random. Raises TrainingError for
    a labeled trait without a weight.
    """
    seen = {trait for pair in pairs for trait, label in pair.traits.items() if label is not None}
    require_weights(seen, trait_weights)
    return {
        trait: trait_weights[trait]
        for trait in sorted(seen)
        if any(labels_by_head(pair, [trait], kind)[1] is not None for pair in pairs)
    }


def require_weights(seen: Collection[str], trait_weights: Mapping[str, float]) -> None:
    """Raises TrainingError for a labeled trait without a weight."""
    unknown = sorted(set(seen) - trait_weights.keys())
    if unknown:
        raise TrainingError(
            f"unknown trait in the labels: {unknown[0]!r}; known: "
            f"{', '.join(sorted(trait_weights)) or 'none'}; give the constitution that made them"
        )


def labeled_pairs(
    pairs: Sequence[PairT], traits: Collection[str], kind: LabelKind
) -> tuple[list[PairT], list[str]]:
    """(the pairs that some head can learn from, the reason for each of the others).

    Raises TrainingError when none is left.
    """
    usable: list[PairT] = []
    reasons: list[str] = []
    for pair in pairs:
        # Soft labels always have the whole pair's; hard ones may all be ½.
        if any(label is not None for label in labels_by_head(pair, traits, kind)):
            usable.append(pair)
        else:
            reasons.append(f"{pair.id}: no label with a side")
    if not usable:
        first = reasons[0] if reasons else "no pairs were given"
        raise none_labeled(len(reasons), first, kind)
    return usable, reasons


def none_labeled(count: int, first: str, kind: LabelKind) -> TrainingError:
    """The error of pairs of which none can be learned from."""
    return TrainingError(
        f"none of the {count} pairs has a label to learn from ({first}); "
        "label more pairs" + (", or set label_kind=soft" if kind == "hard" else "")
    )
