"""Robust DPO (arXiv:2403.00409): unbiased under a known share of flipped labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.base import Loss, PairLogprobs, log_ratio_margin, logsigmoid

if TYPE_CHECKING:
    from torch import Tensor


class RobustConfig(DPOConfig):
    """Settings of DPO with loss=robust."""

    label_noise: float = Field(
        gt=0, lt=0.5, description="share of labels that are flipped, ε (arXiv:2403.00409)"
    )


def robust_loss(h: Tensor, beta: float, label_noise: float) -> Tensor:
    """The sigmoid loss less what flipped labels add to it on average. h (B,); returns (B,)."""
    clean, flipped = -logsigmoid(beta * h), -logsigmoid(-beta * h)
    return ((1 - label_noise) * clean - label_noise * flipped) / (1 - 2 * label_noise)


def _robust(pairs: PairLogprobs, _prob_chosen: Tensor, config: RobustConfig) -> Tensor:
    return robust_loss(log_ratio_margin(pairs), config.beta, config.label_noise)


ROBUST = Loss(_robust, RobustConfig)
