"""Settings of reward-model training. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rlaif.training.config import HeldOutConfig, rate_field

LabelKind = Literal["soft", "hard"]


class RewardConfig(HeldOutConfig):
    """Settings of reward-model training; the heads follow from the labels' traits."""

    renamed: ClassVar[dict[str, str]] = {"labels": "label_kind"}

    learning_rate: float = rate_field(
        1e-4, 1e-5, "TRL: 1e-4; arXiv:2203.02155, appendix C.2: 9e-6 for a whole model"
    )
    epochs: int = Field(
        default=2, ge=1, description="passes over the pairs; more of them overfit (ours)"
    )
    batch_size: int = Field(default=8, ge=1, description="pairs per optimizer step (TRL: 8)")
    centering: float = Field(
        default=0.01,
        ge=0,
        description="weight that pulls a pair's summed score to 0, c of losses.py "
        "(arXiv:2312.09244: 0.01)",
    )
    label_kind: LabelKind = Field(
        default="soft",
        description="soft: labels are probabilities; hard: they are rounded to 0 or 1, and those "
        "of ½ are left out (ours)",
    )
