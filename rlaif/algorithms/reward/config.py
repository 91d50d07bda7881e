"""Settings of reward-model training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.training.config import HeldOutConfig

LabelKind = Literal["soft", "hard"]


class RewardConfig(HeldOutConfig):
    """Settings of reward-model training."""

    epochs: int = Field(default=2, ge=1, description="passes over the pairs; more learns by heart")
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step")
    centering: float = Field(default=0.01, ge=0, description="c above, 0.01 (arXiv:2312.09244)")
    labels: LabelKind = Field(
        default="soft", description="hard: every label becomes 0 or 1, and one of ½ is left out"
    )
