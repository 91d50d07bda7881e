"""The logistic losses of DPO: on soft labels, on hard ones, and normalized by length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.base import (
    Loss,
    PairLogprobs,
    log_ratio_margin,
    log_ratio_margin_per_token,
    logsigmoid,
)

if TYPE_CHECKING:
    from torch import Tensor


class SigmoidNormConfig(DPOConfig):
    """Settings of DPO with loss=sigmoid_norm."""

    beta: float = Field(
        default=5.0,
        gt=0,
        description="factor of the log-ratio per token in nats; 5 at 50 tokens is sigmoid's 0.1 "
        "(arXiv:2411.15124: 5)",
    )


def soft_sigmoid_loss(h: Tensor, prob_chosen: Tensor, beta: float) -> Tensor:
    """Cross-entropy of sigmoid(βh) against the soft label: cDPO with a label per pair.

    h (B,) nats; prob_chosen (B,) in [0, 1]. Returns (B,).
    """
    return -prob_chosen * logsigmoid(beta * h) - (1 - prob_chosen) * logsigmoid(-beta * h)


def sigmoid_loss(h: Tensor, beta: float) -> Tensor:
    """DPO's loss -log sigmoid(βh) on hard labels. h (B,) nats; returns (B,)."""
    return -logsigmoid(beta * h)  # Eq. 7, arXiv:2305.18290


def _soft_sigmoid(pairs: PairLogprobs, prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return soft_sigmoid_loss(log_ratio_margin(pairs), prob_chosen, config.beta)


def _sigmoid(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return sigmoid_loss(log_ratio_margin(pairs), config.beta)


def _sigmoid_norm(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return sigmoid_loss(log_ratio_margin_per_token(pairs), config.beta)  # arXiv:2411.15124


SOFT_SIGMOID = Loss(_soft_sigmoid, DPOConfig, soft=True)
SIGMOID = Loss(_sigmoid, DPOConfig)
SIGMOID_NORM = Loss(_sigmoid_norm, SigmoidNormConfig, per_token=True)
