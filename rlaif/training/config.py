"""Settings that the trainers share. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from constitution.errors import UserError
from rlaif.batching.chat import ChatTemplateKwargs
from rlaif.batching.unusable import Unusable
from rlaif.models.lora_config import LoraConfig, TrainDtype
from rlaif.settings import SettingsModel
from rlaif.training.trackers import TrackerName

# what a run's outcome does not depend on
HOUSEKEEPING = {"checkpoint_every", "keep_checkpoints", "resume", "trackers"}


class TrainingError(UserError):
    """Training that cannot start or continue; the message has the step, reason and remedy."""


class TrainConfig(SettingsModel):
    """Settings that all algorithms share; each algorithm's config adds its own.

    A description says what the setting is and its unit, and ends with the source of the default in
    parentheses; "ours" is a choice of this project.
    """

    seed: int = Field(
        default=0, description="seed of adapters, heads, the order of records and samples (ours)"
    )
    dtype: TrainDtype = Field(
        default="auto",
        description="number format of the frozen base; auto: bfloat16 where the hardware "
        "multiplies in it, else float32; trained weights and losses are always "
        "float32 (ours)",
    )
    lora: LoraConfig | None = Field(
        default=LoraConfig(),
        description="the adapter; null trains the whole model, at a rate of about 2e-5 "
        "(arXiv:2106.09685)",
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, description="peak step size of AdamW, for an adapter (arXiv:2305.14314)"
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the steps with a rising rate; then linear decay (ours)",
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        description="bound of the gradient's L2 norm before a step (TRL, transformers: 1)",
    )
    micro_batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="tokens per forward pass, padding included; decides memory, not the gradient "
        "(ours)",
    )
    max_tokens: int = Field(
        default=1024,
        ge=2,
        description="longest prompt and response together, tokens; records are never truncated "
        "(TRL: 1024)",
    )
    unusable: Unusable = Field(
        default="error",
        description="records that are too long or empty, or that the chat template refuses: an "
        "error, or skipped and counted (ours)",
    )
    chat_template_kwargs: ChatTemplateKwargs = Field(
        default_factory=dict,
        description="variables for the model's chat template, e.g. {enable_thinking: false}; one "
        "that the template does not read is an error (ours)",
    )
    checkpoint_every: int = Field(
        default=10, ge=1, description="optimizer steps (PPO: iterations) between checkpoints (ours)"
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=1,
        description="newest checkpoints that are kept; an older one serves where the newest is "
        "damaged (ours)",
    )
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: go on from the newest checkpoint; never: start anew and remove the "
        "folder's checkpoints (ours)",
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="where metrics go besides metrics.jsonl: tensorboard, wandb (ours)"
    )


class HeldOutConfig(TrainConfig):
    """Settings of trainers that evaluate on held-out pairs (reward model, DPO)."""

    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between held-out evaluations; null: once an epoch (ours)",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="which weights are left at the end: the last step's, or those with the lowest "
        "held-out loss (early stopping); may be changed after training, without "
        "training again (ours)",
    )
