"""The reward model's loss: Bradley-Terry on soft labels, a head for the label and one per trait.

    L = -[p·logsigmoid(Δ) + (1-p)·logsigmoid(-Δ)] + c·(s_chosen + s_rejected)²     mean over labels

    Δ                     margins = chosen - rejected   (B, K)  Eq. 1, arXiv:2203.02155
    s_chosen, s_rejected  chosen, rejected              (B, K)  scores of K heads
    p                     prob_chosen                   (B, K)  P(chosen better), whole and by trait
    labeled                                             (B, K)  False masks a trait without a label
    c                     centering, Eq. 2 of arXiv:2312.09244: scores stay around 0

Left out: InstructGPT's K-way ranking batches (our labels are pairs).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RewardLoss:
    """Losses and margins of B pairs and K heads; 0 where not labeled."""

    losses: Tensor  # (B, K) nats, centering included
    margins: Tensor  # (B, K) Δ


def preference_loss(
    chosen: Tensor, rejected: Tensor, prob_chosen: Tensor, labeled: Tensor, centering: float
) -> RewardLoss:
    """Bradley-Terry loss of every (pair, head) on soft labels, with centering.

    chosen, rejected (B, K) raw scores; prob_chosen (B, K) in [0, 1], ignored where not labeled;
    labeled (B, K) bool.
    """
    p = torch.where(labeled, prob_chosen, 0.5)  # (B, K)
    margins = chosen - rejected  # (B, K)
    bradley_terry = -(p * F.logsigmoid(margins) + (1 - p) * F.logsigmoid(-margins))
    centered = centering * (chosen + rejected).square()  # Eq. 2, arXiv:2312.09244
    return RewardLoss(
        torch.where(labeled, bradley_terry + centered, 0.0), torch.where(labeled, margins, 0.0)
    )
