"""The interface of DPO losses: log-probs of pairs, and the log-ratio margins made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from rlaif.algorithms.dpo.config import DPOConfig

if TYPE_CHECKING:  # the table of losses is read by settings, which import no torch
    from torch import Tensor

ConfigT = TypeVar("ConfigT", bound=DPOConfig)


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Log-probs of B pairs, the input of every DPO loss; nats, summed over response tokens."""

    chosen: Tensor  # (B,) log π_c
    rejected: Tensor  # (B,) log π_r
    ref_chosen: Tensor  # (B,) log ref_c
    ref_rejected: Tensor  # (B,) log ref_r
    chosen_tokens: Tensor  # (B,) tokens summed over
    rejected_tokens: Tensor  # (B,)


@dataclass(frozen=True, slots=True)
class Loss(Generic[ConfigT]):
    """A DPO loss with its settings, an entry of LOSSES.

    compute    (pairs, prob_chosen (B,), config) → one loss per pair, (B,)
    config     DPOConfig, or a subclass with the settings that only this loss has
    soft       whether it weighs by prob_chosen; otherwise ties are left out, and pairs labeled the
               other way round are turned (hard_labels.py)
    per_token  whether its log-ratios are divided by token counts; so are those in metrics, then
    """

    compute: Callable[[PairLogprobs, Tensor, ConfigT], Tensor]
    config: type[ConfigT]
    soft: bool = False
    per_token: bool = False


class LogRatios(NamedTuple):
    """log π - log ref of B pairs' responses, in nats, or nats per token."""

    chosen: Tensor  # (B,)
    rejected: Tensor  # (B,)


def log_ratios(pairs: PairLogprobs, *, per_token: bool) -> LogRatios:
    """The log-ratios of both responses, summed over their tokens or averaged."""
    chosen, rejected = pairs.chosen - pairs.ref_chosen, pairs.rejected - pairs.ref_rejected
    if not per_token:
        return LogRatios(chosen, rejected)
    return LogRatios(chosen / pairs.chosen_tokens, rejected / pairs.rejected_tokens)


def log_ratio_margin(pairs: PairLogprobs) -> Tensor:
    """h = (log π_c - log π_r) - (log ref_c - log ref_r), (B,) nats."""
    ratios = log_ratios(pairs, per_token=False)
    return ratios.chosen - ratios.rejected


def log_ratio_margin_per_token(pairs: PairLogprobs) -> Tensor:
    """h with every log-prob divided by its response's token count, (B,) nats per token."""
    ratios = log_ratios(pairs, per_token=True)
    return ratios.chosen - ratios.rejected


def preferred_nll(pairs: PairLogprobs, prob_chosen: Tensor) -> Tensor:
    """-log π(y | x) / |y| of the response that the label prefers, (B,) nats per token.

    prob_chosen (B,) in [0, 1]: from ½ on the chosen one. The SFT term of arXiv:2404.19733, Eq. 1.
    """
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    return -chosen.where(prob_chosen >= 0.5, rejected)


def logsigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), any shape; imports torch only when called."""
    from torch.nn import functional

    return functional.logsigmoid(x)
