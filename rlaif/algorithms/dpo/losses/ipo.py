"""Identity preference optimization (arXiv:2310.12036): regression of the margin on 1/(2β).

β says where the margin shall be, so one value cannot suit both: 0.1 is a margin of 5 nats, for
ipo_mean of 5 nats in every token, which no policy reaches. At its start the gradient of ipo_sum is
2/β² times that of sigmoid (200 times at 0.1), because a square is steep far from its least value:
max_grad_norm shortens the first steps, and AdamW does not see a constant factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.base import (
    Loss,
    PairLogprobs,
    log_ratio_margin,
    log_ratio_margin_per_token,
)

if TYPE_CHECKING:
    from torch import Tensor


class IPOMeanConfig(DPOConfig):
    """Settings of DPO with loss=ipo_mean."""

    beta: float = Field(
        default=1.0,
        gt=0,
        description="1 / (2 β) is the margin aimed at, nats per token: at 1, over 50 tokens, one "
        "where sigmoid's loss with 0.1 is nearly flat (ours; TRL: 0.1)",
    )


def ipo_loss(h: Tensor, beta: float) -> Tensor:
    """Squared distance of the margin from 1/(2β). h (B,) nats; returns (B,)."""
    return (h - 1 / (2 * beta)).square()  # Eq. 17, arXiv:2310.12036, their τ is our β


def _ipo_sum(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return ipo_loss(log_ratio_margin(pairs), config.beta)


def _ipo_mean(pairs: PairLogprobs, _prob_chosen: Tensor, config: DPOConfig) -> Tensor:
    return ipo_loss(log_ratio_margin_per_token(pairs), config.beta)


IPO_SUM = Loss(_ipo_sum, DPOConfig)
IPO_MEAN = Loss(_ipo_mean, IPOMeanConfig, per_token=True)
