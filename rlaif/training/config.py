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
    """Training that cannot start or continue; the message has the step, reason and remedy."""


class TrainConfig(SettingsModel):
    """Settings that all algorithms share; each algorithm's config adds its own."""

    seed: int = Field(default=0, description="draws adapters, heads, order and samples")
    dtype: TrainDtype = Field(
        default="auto", description="of the frozen base; trained weights and losses are float32"
    )
    lora: LoraConfig | None = Field(
        default=LoraConfig(), description="the adapter; null trains the whole model"
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="LoRA's usual (arXiv:2305.14314)")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="share of steps with a rising rate; then linear decay"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="TRL's and transformers' default")
    micro_batch_tokens: int = Field(
        default=4096, ge=1, description="padded tokens per forward; for memory, not the gradient"
    )
    max_tokens: int = Field(
        default=1024, ge=2, description="prompt and response together; records are never truncated"
    )
    unusable: Unusable = Field(
        default="error", description="too long or empty records: an error, or skipped and counted"
    )
    checkpoint_every: int = Field(default=10, ge=1, description="optimizer steps (PPO: iterations)")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="the newest ones; an older one serves where it is damaged"
    )
    resume: Literal["auto", "never"] = Field(
        default="auto", description="never: start anew and remove the folder's checkpoints"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="tensorboard, wandb: besides metrics.jsonl (trackers.py)"
    )


class HeldOutConfig(TrainConfig):
    """Settings of trainers that evaluate on held-out pairs (reward model, DPO)."""

    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between held-out evaluations; null: once an epoch",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="which weights are left at the end: the last step's, or those with the lowest "
        "held-out loss (early stopping); may be changed after training, without training again",
    )
