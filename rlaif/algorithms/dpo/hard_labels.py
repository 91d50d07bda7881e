"""Labels for losses that only know which response is better, not how surely.

prob_chosen > ½    as it is
prob_chosen = ½    left out: neither is better, and the loss would teach one with full weight
prob_chosen < ½    turned round: the rejected response is the better one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.data.records import Preference
from rlaif.training.config import TrainingError


class HardLabels(NamedTuple):
    """Pairs whose chosen response is the better one, and what was done to get them."""

    pairs: list[Preference]
    ties: int  # left out
    reversed: int  # turned round

    def describe(self) -> str:
        """What was left out and turned round, for a person; "" for nothing."""
        parts = []
        if self.ties:
            parts.append(f"{self.ties} ties (prob_chosen ½) left out")
        if self.reversed:
            parts.append(f"{self.reversed} pairs with prob_chosen under ½ turned round")
        return ", ".join(parts)


def hard_labels(pairs: Sequence[Preference], loss: str) -> HardLabels:
    """The pairs for a loss on hard labels. Raises TrainingError when all are ties."""
    kept = [pair for pair in pairs if pair.prob_chosen != 0.5]
    if pairs and not kept:
        raise TrainingError(
            f"all {len(pairs)} pairs are ties (prob_chosen ½), of which loss={loss} learns "
            "nothing; label them by a stronger judge, or use loss=soft_sigmoid"
        )
    turned = [_turned(pair) if pair.prob_chosen < 0.5 else pair for pair in kept]
    reverse = sum(pair.prob_chosen < 0.5 for pair in kept)
    return HardLabels(turned, len(pairs) - len(kept), reverse)


def _turned(pair: Preference) -> Preference:
    """The same pair with the other response as chosen; its receipt names the old one, and goes."""
    return pair.model_copy(
        update={
            "chosen": pair.rejected,
            "rejected": pair.chosen,
            "prob_chosen": 1 - pair.prob_chosen,
            "chosen_complete": pair.rejected_complete,
            "rejected_complete": pair.chosen_complete,
            "chosen_end_token": pair.rejected_end_token,
            "rejected_end_token": pair.chosen_end_token,
            "traits": {t: None if p is None else 1 - p for t, p in pair.traits.items()},
            "receipt": "",
        }
    )
