"""Recipe: one YAML file with everything a run depends on.

A recipe names the policy, the judge, the constitution and the prompts, and holds the settings of
every stage. `rlaif run RECIPE key=value …` changes any of them. `sft: null` and `rest: null` leave
those stages out, as they do where a recipe does not name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from constitution.errors import UserError
from hardware.dtypes import Dtype
from judge_service.types import JudgeOptions
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.data.prompt_split import DEFAULT_RULE
from rlaif.generation.config import SamplingConfig
from rlaif.settings import configured


class RecipeError(UserError):
    """A recipe that cannot be used: which file or setting, and what to do."""


class JudgingConfig(BaseModel):
    """Settings of the judge's comparisons."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_principles: int | None = Field(
        default=None, ge=1, description="principles drawn per pair, seeded; all by default"
    )
    seed: int = Field(default=0, description="of the draw of principles")

    def options(self) -> JudgeOptions:
        return JudgeOptions(
            sample_principles=self.sample_principles, seed=self.seed, interactive=False
        )


class LabelingConfig(JudgingConfig):
    """Settings of labeling."""

    pairs_per_prompt: int = Field(
        default=1, ge=1, description="of its responses; the first ones share no response"
    )


class Fit(BaseModel):
    """Takes fewer prompts where a run would take too long on the machine (machine_fit.py)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minutes: float = Field(gt=0, description="how long the run may take")
    train_prompts: int = Field(ge=2, description="never fewer than these")
    heldout_prompts: int = Field(ge=2, description="never fewer than these")


class Recipe(BaseModel):
    """Everything a run depends on. Defaults of the nested settings stand beside each algorithm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    description: str = ""
    policy: str = Field(description="the model to train: short name, folder or hub id")
    judge: str = Field(description="the model that judges: short name, folder or hub id")
    constitution: str = Field(description="a shipped name or a YAML file")
    prompts: str = Field(description="'quickstart' or a JSONL file of prompts")
    system: str = Field(default="", description="a system message before every prompt")
    train_prompts: int | None = Field(default=None, ge=2, description="the first N; all by default")
    heldout_prompts: int | None = Field(default=None, ge=2)
    heldout_share: float = Field(
        default=DEFAULT_RULE.heldout_share,
        gt=0,
        lt=1,
        description="share of the prompts held out where their file names no split",
    )
    split_seed: int = Field(default=DEFAULT_RULE.seed, description="of that split")
    reward_heldout: float = Field(
        default=0.2, gt=0, lt=1, description="share of labeled pairs kept to evaluate the reward"
    )
    fit: Fit | None = Field(default=None, description="fewer prompts on slow machines; null: never")
    judge_dtype: Dtype = Field(
        default="auto",
        description="what the judge computes in; auto: bfloat16 where the hardware multiplies in "
        "it, else float32",
    )
    judge_flags: tuple[str, ...] = Field(default=(), description="further flags of `rlaif serve`")
    sample: SamplingConfig = SamplingConfig()
    label: LabelingConfig = LabelingConfig()
    sft: SFTConfig | None = Field(
        default=None, description="imitating the chosen responses; null leaves the stage out"
    )
    start: Literal["policy", "sft"] = Field(
        default="policy",
        description="what reward model, DPO, PPO and ReST begin from, and what KL holds them to; "
        "evaluation compares with the policy either way",
    )
    reward: RewardConfig = RewardConfig()
    dpo: SerializeAsAny[DPOConfig] = DPOConfig()
    ppo: PPOConfig = Field(
        default=PPOConfig(), description="with eval_every, the judge decides on going back"
    )
    rest: ReSTConfig | None = Field(
        default=None, description="against the reward model; null leaves the stage out"
    )
    respond: SamplingConfig = SamplingConfig(n=1)
    evaluate: JudgingConfig = JudgingConfig()
    minutes: dict[str, float] = Field(
        default_factory=dict, description="how long each stage took where it was measured"
    )
    minutes_prompts: dict[Literal["train", "heldout"], int] = Field(
        default_factory=dict,
        description="prompts with which the minutes were measured; by default the recipe's own",
    )
    gflops: float = Field(
        default=120.0, gt=0, description="of the CPU on which the minutes were measured"
    )

    @model_validator(mode="after")
    def _start_is_trained(self) -> Self:
        if self.start == "sft" and self.sft is None:
            raise ValueError("start: sft needs the sft stage; give its settings, e.g. sft: {}")
        return self


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file, with key=value settings laid over it."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"{path}: no such file")
        text, source = path.read_text(encoding="utf-8"), str(path)
    else:
        shipped = {
            file.name.removesuffix(".yaml"): file
            for file in resources.files("rlaif.pipeline.recipes").iterdir()
            if file.name.endswith(".yaml")
        }
        if name not in shipped:
            raise RecipeError(
                f"no recipe named {name!r}; there are: {', '.join(sorted(shipped))}; "
                "or give a .yaml file"
            )
        text, source = shipped[name].read_text(encoding="utf-8"), f"recipe {name}"
    try:
        base = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not YAML: {error}") from error
    if not isinstance(base, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of settings; found {base!r}")
    try:
        return configured(Recipe, list(settings), base)
    except UserError as error:
        raise RecipeError(f"{source}: {error}") from error
