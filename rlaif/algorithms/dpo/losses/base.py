"""What a DPO loss is a function of: log-probs of pairs, and the log-ratio margins made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from rlaif.algorithms.dpo.config import DPOConfig

if TYPE_CHECKING:  # the table of losses is read by settings, which import no torch
    from torch import Tensor

ConfigT = TypeVar("ConfigT", bound=DPOConfig)


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Everything a DPO loss is a function of; all (B,), nats summed over tokens."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


@dataclass(frozen=True, slots=True)
class Loss(Generic[ConfigT]):
    """An entry of LOSSES.

    compute    (pairs, prob_chosen (B,), config) → one loss per pair, (B,)
    config     DPOConfig, or a subclass with the settings that only this loss has
    """

    compute: Callable[[PairLogprobs, Tensor, ConfigT], Tensor]
    config: type[ConfigT]


def log_ratio_margin(pairs: PairLogprobs) -> Tensor:
    """h of losses/__init__.py, (B,)."""
    return (pairs.chosen - pairs.ref_chosen) - (pairs.rejected - pairs.ref_rejected)


def log_ratio_margin_per_token(pairs: PairLogprobs) -> Tensor:
    """h with every log-prob divided by its response's token count, (B,)."""
    chosen = (pairs.chosen - pairs.ref_chosen) / pairs.chosen_tokens
    return chosen - (pairs.rejected - pairs.ref_rejected) / pairs.rejected_tokens


def logsigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))); any shape. Imports torch when it is first called."""
    from torch.nn import functional

    return functional.logsigmoid(x)
