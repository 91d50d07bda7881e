"""Settings of reward-model training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.training.config import HeldOutConfig

LabelKind = Literal["soft", "hard"]


class RewardConfig(HeldOutConfig):
    """Settings of reward-model training; the heads follow from the labels' traits."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs; more of them overfit")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step")
    centering: float = Field(
        default=0.01, ge=0, description="c of losses.py; 0.01 in arXiv:2312.09244"
    )
    labels: LabelKind = Field(
        default="soft",
        description="hard: labels are rounded to 0 or 1, and those of ½ are left out",
    )
