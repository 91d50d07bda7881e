"""reward.json of a reward model's folder: its facts, and what its traits weigh. Imports no torch.

    label_weights     the traits' weights in the label that it was trained on, those of its
                      constitution: each trait's weight times the sum of its principles' weights
    trait_weights     those that score now; the same until `reweigh`

As long as the two are proportional, the head on the label scores. Otherwise a weighted sum of the
traits does, which approximates the label that the judge would give at these weights (heads.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from rlaif.data.records import write_json


class RewardModelError(UserError):
    """A reward model or reward function that cannot be used; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """What the traits with a head weigh, sorted by name; both are empty without traits."""

    label: dict[str, float]  # in the label that was learned
    now: dict[str, float]  # in the score

    @classmethod
    def as_labeled(cls, weights: Mapping[str, float]) -> Weighing:
        """Weights that are those of the label: its own head scores."""
        label = {name: float(weights[name]) for name in sorted(weights)}
        return cls(label, dict(label))

    @property
    def traits(self) -> tuple[str, ...]:
        """The traits in the order of their heads."""
        return tuple(self.label)

    @property
    def by_label(self) -> bool:
        """Whether the head on the label scores: the weights are the label's, or all so many times
        them."""
        label, now = sum(self.label.values()), sum(self.now.values())
        return all(
            math.isclose(self.label[name] * now, self.now[name] * label, rel_tol=1e-6)
            for name in self.label
        )


def read_facts(folder: Path) -> dict[str, Any]:
    """What reward.json says. Raises RewardModelError for a folder without one, or an old one."""
    path = folder / "reward.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("reward.json is not an object")
    except (OSError, ValueError) as error:
        raise RewardModelError(
            f"{folder}: not a reward model ({error}); make one with `rlaif train reward`"
        ) from error
    if "label_weights" not in facts:
        raise RewardModelError(
            f"{folder}: trained by an earlier version, which had no head on the label itself and "
            "weighed the traits unlike the judge; train it again with `rlaif train reward`"
        )
    return facts


def weighing_of(facts: Mapping[str, Any], folder: Path) -> Weighing:
    """The weights in a reward model's facts. Raises RewardModelError for weights that cannot be."""
    try:
        label, now = dict(facts["label_weights"]), dict(facts["trait_weights"])
        unequal = sorted(label.keys() ^ now.keys())
        if unequal:
            raise ValueError(f"{unequal[0]!r} has no weight or no head")
        for name, weight in [*label.items(), *now.items()]:
            _require_weight(name, weight)
        if now and not any(now.values()):
            raise ValueError("all are 0")
    except (KeyError, TypeError, ValueError) as error:
        raise RewardModelError(
            f"{folder / 'reward.json'}: invalid trait weights ({error}); copy the folder again, or "
            "train the reward model again"
        ) from error
    order = sorted(label)
    return Weighing({n: float(label[n]) for n in order}, {n: float(now[n]) for n in order})


def reweigh(folder: Path, weights: Mapping[str, float]) -> Weighing:
    """Change trait weights of a trained reward model without training; returns all weights.

    weights: in the units of `Weighing.label`; none changes nothing. Earlier scores and evaluations
    are not recomputed. Raises RewardModelError for a trait without a head, a weight that is not a
    finite number ≥ 0, or if all would be 0.
    """
    facts = read_facts(folder)
    old = weighing_of(facts, folder)
    unknown = [name for name in weights if name not in old.label]
    if unknown:
        raise RewardModelError(
            f"{folder}: no head for the trait {unknown[0]!r} (it has: "
            f"{', '.join(old.traits) or 'none'}); only a trait that labels were trained on can be "
            "weighed"
        )
    for name, weight in weights.items():
        _require_weight(name, weight)
    new = Weighing(old.label, {name: float(weights.get(name, w)) for name, w in old.now.items()})
    if weights and not any(new.now.values()):
        raise RewardModelError(
            f"{folder}: all weights are 0, so every score would be 0; give at least one above 0"
        )
    if new != old:
        write_json(folder / "reward.json", {**facts, "trait_weights": new.now})
    return new


def _require_weight(name: str, weight: float) -> None:
    if not (math.isfinite(weight) and weight >= 0):
        raise RewardModelError(f"{name}={weight}: a weight is a finite number of at least 0")
