"""Settings that the trainers share. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from constitution.errors import UserError
from rlaif.batching.unusable import Unusable
from rlaif.models.lora_config import LoraConfig, TrainDtype
from rlaif.settings import SettingsModel
from rlaif.training.trackers import TrackerName

# what a run's outcome does not depend on
HOUSEKEEPING = {"checkpoint_every", "keep_checkpoints", "resume", "trackers"}


class TrainingError(UserError):
    """Training that cannot start or go on: what, at which step, and the remedy."""


class TrainConfig(SettingsModel):
    """Settings that every algorithm has. Each algorithm's Config adds its own."""

    seed: int = Field(default=0, description="of adapters, heads, order and sampling")
    dtype: TrainDtype = Field(
        default="auto", description="of the frozen base; what is trained, and losses, are float32"
    )
    lora: LoraConfig | None = Field(
        default=LoraConfig(), description="the adapter; null trains the whole model"
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="LoRA's usual (arXiv:2305.14314)")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="share of steps rising; then linear decay to 0"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="TRL's and transformers' default")
    micro_batch_tokens: int = Field(
        default=4096, ge=1, description="padded tokens per forward; memory and speed, not gradients"
    )
    max_tokens: int = Field(
        default=1024, ge=2, description="prompt and response together; nothing is cut to fit"
    )
    unusable: Unusable = Field(
        default="error", description="a record too long or empty: an error, or skipped and counted"
    )
    checkpoint_every: int = Field(default=10, ge=1, description="optimizer steps (PPO: iterations)")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="the newest; the older ones serve when it cannot be read"
    )
    resume: Literal["auto", "never"] = Field(
        default="auto", description="never: start anew, removing older checkpoints of the folder"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="tensorboard, wandb: beside metrics.jsonl (trackers.py)"
    )


class HeldOutConfig(TrainConfig):
    """Settings of a trainer that can be given held-out pairs."""

    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between looks at the held-out pairs; null: every epoch",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="which weights are left at the end: the last step's, or those with the least "
        "held-out loss (early stopping). May be changed after training: only the end is run again",
    )
