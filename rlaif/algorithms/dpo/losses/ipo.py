"""Identity preference optimization (arXiv:2310.12036): regression of the margin on 1/(2β)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.base import (
    Loss,
    PairLogprobs,
    log_ratio_margin,
    log_ratio_margin_per_token,
)

if TYPE_CHECKING:
    from torch import Tensor


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    """Squared distance of the margin from 1/(2β). h (B,) nats; returns (B,)."""
    return (h - 1 / (2 * beta)).square()  # Eq. 17, arXiv:2310.12036, their τ is our β


def _ipo_sum(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return ipo_loss(log_ratio_margin(pairs), config.beta)


def _ipo_mean(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return ipo_loss(log_ratio_margin_per_token(pairs), config.beta)


IPO_SUM = Loss(_ipo_sum, DPOConfig)
IPO_MEAN = Loss(_ipo_mean, DPOConfig)
