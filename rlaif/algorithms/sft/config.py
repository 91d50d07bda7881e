"""Settings of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from rlaif.data.cut_off import CutOff
from rlaif.training.config import CUT_OFF, PolicyConfig


class SFTConfig(PolicyConfig):
    """Settings of supervised fine-tuning on a mix of sources."""

    epochs: int = Field(
        default=2,
        ge=1,
        description="passes: a run takes epochs times the rows of all sources (ours)",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps of a run instead of epochs, such as for a mix with a large "
        "text at a small weight; null: by epochs (ours)",
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
        description="optimizer steps between evaluations; null: once an epoch, and with steps "
        "halfway and at the end (ours)",
    )

    @model_validator(mode="after")
    def _one_length(self) -> SFTConfig:
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError(
                f"epochs={self.epochs} has no effect with steps={self.steps}; remove one"
            )
        return self

    def rows_of_run(self, rows: int) -> int:
        """How many rows a run takes from sources that have so many together."""
        return self.steps * self.batch_size if self.steps is not None else self.epochs * rows

    def evaluates_every(self, steps: int) -> int:
        """Optimizer steps between evaluations in a run of so many."""
        parts = 2 if self.steps is not None else self.epochs
        return self.eval_every or -(-steps // parts)
