"""Checks of weights that dominate or never matter, and of traits without a description.

    w_k = weight of the principle · weight of its trait        share_k = w_k / Σ w

A vote counts with w_k (judge_service.judge.aggregation). Scopes are ignored, because the principles
that apply together depend on the conversation: the shares are those of a pair to which all apply.
"""

from __future__ import annotations

from collections.abc import Iterator

from constitution.lint.finding import Remark, Severity
from constitution.schema import Constitution
from constitution.strict_yaml import Path

MANY_PRINCIPLES = 4  # from this number on, one principle with over half the weight is reported
DROWNING_SHARE = 0.5
DROWNED_SHARE = 0.01
DROWNED_OF_EQUAL = 0.25  # … and below this part of an equal share, for many principles
LOPSIDED = 5.0  # the heaviest trait's total weight over the lightest's


def remarks(constitution: Constitution) -> Iterator[Remark]:
    """Remarks on traits and weights."""
    for name, trait in constitution.traits.items():
        if not trait.description:
            yield Remark(
                Severity.ADVICE,
                "trait-without-description",
                ("traits", name),
                f"the trait '{name}' has no description",
                "describe in a sentence what it means here",
            )
    yield from _shares(constitution)
    yield from _lopsided_traits(constitution)


def _effective(constitution: Constitution) -> list[float]:
    """The weight of each principle's vote."""
    return [p.weight * constitution.traits[p.trait].weight for p in constitution.principles]


def _shares(constitution: Constitution) -> Iterator[Remark]:
    weights = _effective(constitution)
    total, count = sum(weights), len(weights)
    least = min(DROWNED_SHARE, DROWNED_OF_EQUAL / count)
    for index, (principle, weight) in enumerate(zip(constitution.principles, weights, strict=True)):
        path: Path = ("principles", index, "weight")
        trait_weight = constitution.traits[principle.trait].weight
        share = f"{100 * weight / total:.3g}%"
        # The message shows the product, since either factor can be changed.
        product = f"weight {principle.weight:g} x trait {trait_weight:g} of {total:g}"
        if weight / total > DROWNING_SHARE and count >= MANY_PRINCIPLES:
            yield Remark(
                Severity.WARNING,
                "weight-drowns-others",
                path,
                f"'{principle.id}' holds {share} of all the weight ({product}): "
                f"the other {count - 1} principles cannot outvote it",
                "lower its weight or its trait's",
            )
        elif weight / total < least:
            yield Remark(
                Severity.WARNING,
                "weight-drowned",
                path,
                f"'{principle.id}' holds {share} of all the weight ({product}): "
                "it is read for every pair and never changes a verdict",
                "raise its weight or its trait's, or delete the principle",
            )


def _lopsided_traits(constitution: Constitution) -> Iterator[Remark]:
    sums = dict.fromkeys(constitution.traits, 0.0)
    for principle, weight in zip(constitution.principles, _effective(constitution), strict=True):
        sums[principle.trait] += weight
    heaviest = max(sums, key=lambda name: sums[name])
    for name, weight in sums.items():
        if sums[heaviest] > LOPSIDED * weight:
            yield Remark(
                Severity.ADVICE,
                "lopsided-traits",
                ("traits", name),
                f"the principles of '{name}' have a total weight of {weight:g}, those of "
                f"'{heaviest}' {sums[heaviest]:g}: '{heaviest}' decides the overall label",
                f"raise the weight of '{name}' if it should count there",
            )
