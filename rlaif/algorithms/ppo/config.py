"""Settings of PPO and its group baselines; those without effect are refused. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from constitution.errors import expected_one_of
from rlaif.algorithms.ppo.estimator_base import Estimator
from rlaif.algorithms.ppo.estimators import ESTIMATORS
from rlaif.training.config import RolloutConfig, TrainingError, rate_field

_OF_VALUE = ("value", "value_learning_rate", "value_clip", "vf_coef")
OF_JUDGE = ("eval_every", "eval_prompts", "rollback_error")


# What bounds how far several steps on one rollout may move: nothing has moved before the first.
_OF_SEVERAL_STEPS = ("clip", "clip_high", "value_clip", "kl_ceiling")

# Horizons in a run: e^(0.2 · 20) = 55 is the most that kl_coef can grow by (guards.adapt_kl_coef).
HORIZONS = 20


@dataclass(frozen=True, slots=True)
class _ClipByRatio:
    """A default of `clip` or `clip_high`, by `ratio`: the mean log-ratio of a response moves far
    less than that of a token. `like` names the setting that it follows where that is given."""

    token: float
    sequence: float
    like: str = ""

    def __call__(self, data: dict[str, Any]) -> float:
        by_ratio = self.sequence if data.get("ratio") == "sequence" else self.token
        given = data.get(self.like)
        return given if given is not None and given != _CLIP(data) else by_ratio

    def __str__(self) -> str:
        like = f"as {self.like}" if self.like else f"{self.token:g}"
        return f"{like}; with ratio=sequence {self.sequence:g}"


_CLIP = _ClipByRatio(0.2, 3e-4)
_CLIP_HIGH = _ClipByRatio(0.2, 4e-4, "clip")


class PPOConfig(RolloutConfig):
    """Settings of PPO. Defaults of the equations: TRL 1.12's PPOConfig, unless said otherwise."""

    learning_rate: float = rate_field(5e-5, 2e-6, "ours; TRL 1.12: 3e-6 for a whole model")
    iterations: int = Field(
        default=100, ge=1, description="rollouts, each followed by updates (ours)"
    )
    prompts_per_iteration: int = Field(
        default=16, ge=1, description="prompts of a rollout, to which responses are sampled (ours)"
    )
    group_size: int = Field(
        default=1, ge=1, description="responses per prompt; rloo and grpo compare 2 or more (ours)"
    )
    max_new_tokens: int = Field(default=128, ge=1, description="longest response, tokens (ours)")
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="factor of sampling, and so of π; 1: the policy itself (ours)",
    )
    kv_cache_gib: float = Field(
        default=1.0,
        gt=0,
        description="most GiB of keys and values in sampling; less where an iteration's responses "
        "need less (ours)",
    )
    off_policy_steps: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1: the rollout workers draw the next iteration's responses while this one "
        "trains, with the weights before its updates (ours; ppo/drawing/ahead.py)",
    )
    importance_cap: float = Field(
        default=2.0,
        ge=1,
        description="bound of the ratio π_old / sampler of a token (ours; ppo/train.py)",
    )
    epochs: int = Field(default=1, ge=1, description="passes over a rollout (ours; TRL 1.12: 4)")
    update_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="responses per optimizer step, drawn from the whole rollout and at most all of "
        "it; null: a quarter (ours; TRL 1.12: all of it)",
    )
    value: Literal["head", "adapter"] = Field(
        default="head",
        description="V of the policy's own hidden states, or of an adapter's (ours; ppo/critic.py)",
    )
    value_learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="peak step size of the value function's head and adapter, which start "
        "untrained (ours)",
    )
    standardize_scores: Literal["auto", "none"] = Field(
        default="auto",
        description="auto: a judge's ratings, before their weight, less the mean and over the "
        "standard deviation of the run's first ones; none: as they are, in [-1, 1] (ours; "
        "rewards/scale.py)",
    )
    kl_coef: float = Field(
        default=0.05,
        ge=0,
        description="weight of the KL to the reference, score per nat (TRL 1.12: 0.05)",
    )
    kl_target: float | None = Field(
        default=None,
        gt=0,
        description="nats per response that kl_coef adapts to; null keeps it fixed (ours; "
        "arXiv:1909.08593)",
    )
    kl_horizon: float | None = Field(
        default=None,
        gt=0,
        description="responses over which kl_coef adapts; null: a twentieth of the run's, so that "
        "it can change by a factor of 50 (ours; TRL 0.11: 10000)",
    )
    kl_ceiling: float = Field(
        default=0.05,
        gt=0,
        description="nats per token from the rollout's policy; above it the iteration's updates "
        "end (ours)",
    )
    max_kl: float | None = Field(
        default=None,
        gt=0,
        description="nats per response from the reference; above it training stops with an error "
        "(ours; ppo/guards.py)",
    )
    advantages: str = Field(
        default="gae",
        description="how advantages are estimated, a name in ESTIMATORS of estimators.py "
        "(arXiv:1707.06347: gae)",
    )
    gamma: float = Field(
        default=1.0, ge=0, le=1, description="discount factor per token (TRL 1.12: 1)"
    )
    gae_lambda: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="factor between bias (0) and variance (1) of advantages (TRL 1.12: 0.95; "
        "arXiv:1506.02438)",
    )
    ratio: Literal["token", "sequence"] = Field(
        default="token",
        description="what is compared with the rollout's policy and clipped: each token, or the "
        "geometric mean over a response, as GSPO does (arXiv:1707.06347: token; arXiv:2507.18071)",
    )
    clip: float = Field(
        default_factory=_CLIP,
        gt=0,
        lt=1,
        description="how far the policy's ratio may fall below 1 before its gradient ends; 3e-4 "
        "with ratio=sequence (arXiv:1707.06347, table 1; arXiv:2507.18071)",
    )
    clip_high: float = Field(
        default_factory=_CLIP_HIGH,
        gt=0,
        description="the same above 1, where more room keeps rare tokens possible "
        "(arXiv:1707.06347; arXiv:2503.14476: 0.28; arXiv:2507.18071: 4e-4)",
    )
    truncated: Literal["penalty", "mask"] = Field(
        default="penalty",
        description="responses that max_new_tokens cut off: scored less by missing_eos_penalty, or "
        "without a loss, their score only compared with (ours; arXiv:2503.14476: mask)",
    )
    value_clip: float = Field(
        default=0.2,
        gt=0,
        description="range of v around v_old, in units of the score (TRL 1.12: 0.2)",
    )
    vf_coef: float = Field(
        default=0.1,
        ge=0,
        description="weight of the value loss, c1 of Eq. 9 in arXiv:1707.06347 (TRL 1.12: 0.1)",
    )
    missing_eos_penalty: float = Field(
        default=1.0,
        ge=0,
        description="taken off the score of a response without end token, in units of the score "
        "(TRL 1.12: 1 in its examples)",
    )
    eval_every: int = Field(
        default=10,
        ge=1,
        description="iterations between evaluations, where there is a judge (ours)",
    )
    eval_prompts: int = Field(
        default=64,
        ge=1,
        description="prompts held out for the judge, never trained on; ppo/guards.py has a table "
        "of how many find a fall (ours)",
    )
    rollback_error: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="probability that a run whose policy does not get worse is rolled back to its "
        "best evaluation (ours; ppo/guards.py)",
    )

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The names of the advantage estimators and of the sampling engines."""
        return {"advantages": tuple(ESTIMATORS), **super().choices()}

    @property
    def evaluations(self) -> int:
        """Evaluations of a whole run, where there is a judge."""
        return -(-self.iterations // self.eval_every)

    @property
    def responses(self) -> int:
        """Responses of one iteration."""
        return self.prompts_per_iteration * self.group_size

    @property
    def batch_rows(self) -> int:
        """Responses of an optimizer step."""
        return self.update_batch_size or -(-self.responses // 4)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps on one rollout, of which every response has a loss."""
        return self.epochs * -(-self.responses // self.batch_rows)

    @property
    def eos_penalty(self) -> float:
        """What is taken off the score of a response that was cut off."""
        return self.missing_eos_penalty if self.truncated == "penalty" else 0.0

    @property
    def horizon(self) -> float:
        """Responses over which kl_coef adapts."""
        return self.kl_horizon or self.iterations * self.responses / HORIZONS

    @property
    def estimator(self) -> Estimator:
        """The entry of ESTIMATORS that `advantages` names."""
        return ESTIMATORS[self.advantages]

    def require_judge(self, given: bool) -> None:
        """Raises TrainingError where no judge is given, for settings that only a judge uses."""
        idle = [] if given else self.set_for_a_judge()
        if idle:
            raise TrainingError(
                f"settings that need a judge of held-out responses: {', '.join(idle)}; give a "
                f"judge, or remove {'it' if len(idle) == 1 else 'them'}"
            )

    def set_for_a_judge(self) -> list[str]:
        """Settings that were given explicitly, but only have an effect with a judge."""
        return [name for name in OF_JUDGE if name in self.model_fields_set]

    @model_validator(mode="before")
    @classmethod
    def _refuse_removed(cls, data: Any) -> Any:
        if isinstance(data, dict) and "rollback_after" in data:
            raise ValueError(
                "rollback_after was removed, as it went back by chance: remove it; rollback_error "
                "and eval_prompts decide"
            )
        return data

    @field_validator("advantages")
    @classmethod
    def _require_known(cls, advantages: str) -> str:
        if advantages not in ESTIMATORS:
            expected = expected_one_of(advantages, ESTIMATORS)
            raise ValueError(f"unknown estimator {advantages!r}; {expected}")
        return advantages

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        given = self.model_fields_set
        if self.kl_target is None and "kl_horizon" in given:
            raise ValueError("kl_horizon does nothing without kl_target; set both or neither")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError(
                f"kl_target={self.kl_target:g} does nothing with kl_coef=0, which it would "
                "multiply; raise kl_coef, or remove kl_target"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError(
                f"lora.dropout={self.lora.dropout:g} would make the update's policy another one "
                "than the rollout's, and every ratio noise; set it to 0"
            )
        if self.truncated == "mask" and "missing_eos_penalty" in given:
            raise ValueError(
                "missing_eos_penalty does nothing with truncated=mask, where responses without an "
                "end have no loss; remove one of them"
            )
        if self.off_policy_steps and not self.rollout_workers:
            raise ValueError(
                "off_policy_steps=1 needs rollout workers, which draw while the trainer trains; "
                "set rollout_workers, or remove it"
            )
        unmoved = [name for name in _OF_SEVERAL_STEPS if name in given]
        if unmoved and self.steps_per_iteration == 1:
            verb = "does" if len(unmoved) == 1 else "do"
            raise ValueError(
                f"{', '.join(unmoved)} {verb} nothing with one optimizer step per rollout, before "
                f"which the policy has not moved and every ratio is 1 (update_batch_size="
                f"{self.batch_rows} of {self.responses} responses); set epochs to 2 or more, lower "
                f"update_batch_size, or remove "
                f"{'it' if len(unmoved) == 1 else 'them'}"
            )
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError("max_new_tokens must leave room for the prompt within max_tokens")
        idle = [name for name in unread_by(self.estimator) if name in given]
        if idle:
            them = "it" if len(idle) == 1 else "them"
            raise ValueError(
                f"advantages={self.advantages} does not use {', '.join(idle)}; remove {them}"
            )
        if self.group_size < self.estimator.min_group_size:
            raise ValueError(
                f"advantages={self.advantages} compares the responses to one prompt, and "
                f"group_size is {self.group_size}; set group_size to "
                f"{self.estimator.min_group_size} or more"
            )
        return self


def idle_processes(config: PPOConfig, processes: int) -> str:
    """A line for users where an optimizer step has fewer responses than there are processes; ""
    where all of them have some."""
    if config.batch_rows >= processes:
        return ""
    return (
        f"update_batch_size={config.batch_rows} gives {processes - config.batch_rows} of the "
        f"{processes} processes nothing to compute in an update; raise it (the "
        f"{config.responses} responses of an iteration at most), or launch fewer"
    )


def require_prompts_left(usable: int, eval_prompts: int) -> None:
    """Raises TrainingError when nothing would be left to train on."""
    if eval_prompts >= usable:
        raise TrainingError(
            f"eval_prompts={eval_prompts} of {usable} usable prompts leaves none to train on; "
            "lower eval_prompts or give more prompts"
        )


def unread_by(estimator: Estimator) -> list[str]:
    """Settings that have no effect with this estimator: other estimators', and the value's."""
    others = [name for other in ESTIMATORS.values() for name in other.settings]
    unread = [name for name in dict.fromkeys(others) if name not in estimator.settings]
    return unread if estimator.needs_value else [*unread, *_OF_VALUE]
