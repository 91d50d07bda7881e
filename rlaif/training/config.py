"""Settings that the trainers share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from constitution.errors import UserError
from rlaif.batching.chat import ChatTemplateKwargs
from rlaif.batching.unusable import Unusable
from rlaif.data.cut_off import CutOff
from rlaif.distributed.actors import RayActors
from rlaif.distributed.fleet import require_ray
from rlaif.generation.engines import EngineChoice, choose_engine, engine_choices
from rlaif.models.lora_config import LoraConfig, TrainDtype
from rlaif.settings import SettingsModel
from rlaif.training.plain_text.source import SHIPPED, read_text, text_file
from rlaif.training.schedules import Schedule
from rlaif.training.trackers import TrackerName

# what a run's outcome does not depend on
HOUSEKEEPING = {
    "checkpoint_every", "keep_checkpoints", "resume", "rollout_gpus", "rollout_ray",
    "rollout_weights", "rollout_workers", "text_eval", "trackers",
}  # fmt: skip


CUT_OFF = (
    "responses that a length limit cut off: keep trains on them without an end token, so that no "
    "end is learned; skip leaves out the {} (ours)"
)


class TrainingError(UserError):
    """Training that cannot start or continue; the message has the step, reason and remedy."""


@dataclass(frozen=True, slots=True)
class RateByMode:
    """Default learning rates of an algorithm; as a field's default_factory it picks by `lora`.

    An adapter's best rate is about ten times that of the whole model (Schulman et al. 2025, "LoRA
    Without Regret"): its B starts at zero.
    """

    adapter: float
    whole: float  # with lora=null

    def __call__(self, data: dict[str, Any]) -> float:
        """The rate for settings validated so far, of which `lora` is one."""
        return self.whole if data.get("lora", ...) is None else self.adapter

    def __str__(self) -> str:
        return f"{self.adapter:g}; with lora=null {self.whole:g}"


def rate_field(adapter: float, whole: float, source: str) -> Any:
    """The field `learning_rate` of an algorithm, whose default depends on `lora`."""
    default: Callable[[dict[str, Any]], float] = RateByMode(adapter, whole)
    return Field(default_factory=default, gt=0, description=f"peak step size of AdamW ({source})")


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
        description="the adapter; null trains the whole model, by default at a lower rate "
        "(arXiv:2106.09685)",
    )
    learning_rate: float = rate_field(2e-4, 2e-5, "arXiv:2305.14314: 2e-4; TRL's SFT: 2e-5")
    schedule: Schedule = Field(
        default="linear",
        description="how the rate falls after the warmup; wsd: only in the cooldown; constant: not "
        "at all (TRL: linear)",
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the steps in which the rate rises to learning_rate (ours)",
    )
    cooldown: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="share of the steps at the end in which the rate falls, with schedule=wsd "
        "(arXiv:2405.18392: 0.1 to 0.2)",
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="share of each trained matrix, times the rate, that a step of AdamW takes off; "
        "not of biases and norms (TRL, transformers: 0)",
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
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute every layer again in the backward pass instead of keeping its "
        "activations: less memory, more time, the same gradient (ours)",
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
    budget_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="training ends with the step in which its time reaches this, evaluations "
        "included and loading the model not; the rate follows the schedule of all steps (ours)",
    )
    budget_tokens: int | None = Field(
        default=None,
        ge=1,
        description="training ends with the step in which its tokens reach this: those of forward "
        "and backward passes, prompts included, and every sampled one (ours)",
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

    @model_validator(mode="after")
    def _refuse_idle_schedule_settings(self) -> Self:
        if "cooldown" in self.model_fields_set and self.schedule != "wsd":
            raise ValueError(f"schedule={self.schedule} does not use cooldown; remove it")
        if self.schedule == "wsd" and self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup={self.warmup:g} and cooldown={self.cooldown:g} are more than all steps; "
                "lower one of them"
            )
        return self


class PolicyConfig(TrainConfig):
    """Settings of trainers whose outcome writes text (all but the reward model's)."""

    text_eval: str | None = Field(
        default=SHIPPED,
        description="held-out plain text whose loss shows what is forgotten, at every evaluation: "
        f"{SHIPPED}, or a file; null: none (ours; rlaif/training/plain_text)",
    )

    @field_validator("text_eval")
    @classmethod
    def _require_text(cls, name: str | None) -> str | None:
        if name is not None:
            read_text(name)
        return name

    @property
    def named_files(self) -> tuple[Path, ...]:
        """The file of text_eval, unless it is the one that ships."""
        path = None if self.text_eval is None else text_file(self.text_eval)
        return () if path is None else (path,)


RolloutWeights = Literal["adapter", "files", "nccl"]


class _WeightsByMode:
    """The default of `rollout_weights`, by `lora`."""

    def __call__(self, data: dict[str, Any]) -> RolloutWeights:
        return "files" if data.get("lora", ...) is None else "adapter"

    def __str__(self) -> str:
        return "adapter; with lora=null files"


class RolloutConfig(PolicyConfig):
    """Settings of trainers that sample from the policy under training (PPO, ReST)."""

    engine: EngineChoice = Field(
        default="auto",
        description="what samples the responses; auto: vLLM where it is installed (ours)",
    )
    rollout_workers: int = Field(
        default=0,
        ge=0,
        description="processes that sample beside each of the trainer's processes; 0: the trainer "
        "samples itself (ours; docs/distributed.md)",
    )
    rollout_weights: RolloutWeights = Field(
        default_factory=_WeightsByMode(),
        description="how weights reach the workers: adapter and files, each in a file beside the "
        "run, the adapter's or all of them; nccl: vLLM's own transfer between GPUs, not run yet "
        "(ours)",
    )
    rollout_ray: str | None = Field(
        default=None,
        min_length=1,
        description="the Ray cluster on which the workers run: its address, auto for the one of "
        "this host, or local; null: processes of this host (ours)",
    )
    rollout_gpus: float = Field(
        default=0, ge=0, description="GPUs of each worker on a Ray cluster (ours)"
    )

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The names of the sampling engines."""
        return {"engine": engine_choices()}

    @property
    def ray(self) -> RayActors | None:
        """The cluster of the rollout workers, not connected yet."""
        return RayActors(self.rollout_ray, self.rollout_gpus) if self.rollout_ray else None

    def engine_for(self, processes: int) -> str:
        """The engine that samples in a training of `processes`; raises SamplingError as
        `choose_engine`. A worker is a process by itself."""
        return choose_engine(self.engine, 1 if self.rollout_workers else processes)

    @model_validator(mode="after")
    def _refuse_impossible_workers(self) -> Self:
        for name in ("rollout_weights", "rollout_ray"):
            if name in self.model_fields_set and not self.rollout_workers:
                raise ValueError(
                    f"{name} does nothing without rollout workers; set rollout_workers, or remove "
                    "it"
                )
        if self.rollout_ray:
            require_ray()
        elif self.rollout_gpus:
            raise ValueError(
                "rollout_gpus does nothing without a Ray cluster, whose workers it is for; set "
                "rollout_ray, or remove it"
            )
        if self.rollout_weights == "adapter" and self.lora is None:
            raise ValueError(
                "rollout_weights=adapter sends an adapter, and with lora=null there is none; set "
                "rollout_weights=files"
            )
        return self


class HeldOutConfig(TrainConfig):
    """Settings of trainers that evaluate on held-out pairs (reward model, DPO)."""

    cut_off: CutOff = Field(default="keep", description=CUT_OFF.format("pairs that hold one"))

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
