"""Settings of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from rlaif.data.cut_off import CutOff
from rlaif.training.config import CUT_OFF, PolicyConfig


class SFTConfig(PolicyConfig):
    """Settings of supervised fine-tuning on a mix of sources."""

    epochs: int = Field(
        default=2,
        ge=1,
        description="passes: a run takes epochs times the rows of all sources (ours)",
    )
    batch_size: int = Field(default=8, ge=1, description="rows per optimizer step (TRL: 8)")
    min_prob_chosen: float = Field(
        default=0.6,
        ge=0.5,
        le=1,
        description="probability below which a chosen response is not imitated (ours)",
    )
    cut_off: CutOff = Field(default="keep", description=CUT_OFF.format("records that are one"))
    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between evaluations; null: once an epoch (ours)",
    )
