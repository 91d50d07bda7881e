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
    """Sigmoid loss, corrected for the expected effect of flipped labels (arXiv:2403.00409).

    h (B,) nats; label_noise: probability ε < ½ that a label is flipped. Returns (B,).
    """
    clean, flipped = -logsigmoid(beta * h), -logsigmoid(-beta * h)  # (B,) each
    return ((1 - label_noise) * clean - label_noise * flipped) / (1 - 2 * label_noise)


def _robust(pairs: PairLogprobs, _prob_chosen: Tensor, config: RobustConfig) -> Tensor:
    return robust_loss(log_ratio_margin(pairs), config.beta, config.label_noise)


ROBUST = Loss(_robust, RobustConfig)
