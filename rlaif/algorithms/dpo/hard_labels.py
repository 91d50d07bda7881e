"""Labels for losses that only know which response is better, not how surely.

prob_chosen > ½    as it is
prob_chosen = ½    left out: neither is better, and the loss would teach one with full weight
prob_chosen < ½    turned round: the rejected response is the better one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from rlaif.data.records import Preference
from rlaif.training.config import TrainingError

if TYPE_CHECKING:
    from rlaif.batching.corpus.mapped import CorpusPairs


PairsT = TypeVar("PairsT", bound="Sequence[Preference] | CorpusPairs")


class HardLabels(NamedTuple, Generic[PairsT]):
    """Pairs whose chosen response is the better one, and what was done to get them."""

    pairs: PairsT
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


def hard_labels(pairs: Sequence[Preference], loss: str) -> HardLabels[list[Preference]]:
    """The pairs for a loss on hard labels. Raises TrainingError when all are ties."""
    kept = [pair for pair in pairs if pair.prob_chosen != 0.5]
    if pairs and not kept:
        raise _only_ties(len(pairs), loss)
    turned = [_turned(pair) if pair.prob_chosen < 0.5 else pair for pair in kept]
    reverse = sum(pair.prob_chosen < 0.5 for pair in kept)
    return HardLabels(turned, len(pairs) - len(kept), reverse)


def hard_corpus(pairs: CorpusPairs, loss: str) -> HardLabels[CorpusPairs]:
    """`hard_labels` of a corpus, whose pairs are turned round when they are read."""
    from rlaif.batching.corpus.selection import with_side  # takes numpy

    kept = with_side(pairs)
    if not kept:
        raise _only_ties(len(pairs), loss)
    reverse = sum(int((piece < 0.5).sum()) for piece in kept.column("prob_chosen"))
    turned = kept.with_rows(kept.rows, turn=True) if reverse else kept
    return HardLabels(turned, len(pairs) - len(kept), reverse)


def _only_ties(count: int, loss: str) -> TrainingError:
    return TrainingError(
        f"all {count} pairs are ties (prob_chosen ½), of which loss={loss} learns "
        "nothing; label them by a stronger judge, or use loss=soft_sigmoid"
    )


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
