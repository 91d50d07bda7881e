"""A recipe (YAML) becomes stages; each is skipped when its inputs did not change.

    models ─ sample ─ label ─┬─ reward ─ ppo ─┐
                             └─ dpo ──────────┴─ respond ─ evaluate ─ report

A recipe names the policy, the judge, the constitution and the prompts, and holds the settings of
every stage. `rlaif run RECIPE key=value …` changes any of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from constitution import Constitution
from constitution.errors import UserError
from judge_service.judgment import JudgeOptions
from rlaif import models
from rlaif.commands import configured
from rlaif.dpo import DPOConfig
from rlaif.ppo import PPOConfig
from rlaif.prompts import load_prompts
from rlaif.records import Preference, Prompt, Sample, read_jsonl, read_preferences, write_json
from rlaif.reward_model import RewardConfig
from rlaif.sampling import SamplingConfig
from rlaif.stages import Stage, content_digest, input_digest, is_finished, run_stages


class RecipeError(UserError):
    """A recipe that cannot be used: which file or setting, and what to do."""


class JudgingConfig(BaseModel):
    """How the judge is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_principles: int | None = Field(
        default=None, ge=1, description="principles drawn per pair, seeded; all by default"
    )
    seed: int = Field(default=0, description="of the draw of principles")

    def options(self) -> JudgeOptions:
        return JudgeOptions(
            sample_principles=self.sample_principles, seed=self.seed, interactive=False
        )


class Recipe(BaseModel):
    """Everything a run depends on. Defaults of the nested settings stand beside each algorithm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    description: str = ""
    policy: str = Field(description="the model to train: short name, folder or hub id")
    judge: str = Field(description="the model that judges: short name, folder or hub id")
    constitution: str = Field(description="a shipped name or a YAML file")
    prompts: str = Field(description="'quickstart' or a JSONL file of prompts")
    train_prompts: int | None = Field(default=None, ge=2, description="the first N; all by default")
    heldout_prompts: int | None = Field(default=None, ge=2)
    reward_heldout: float = Field(
        default=0.2, gt=0, lt=1, description="share of labelled pairs kept to evaluate the reward"
    )
    judge_flags: tuple[str, ...] = Field(default=(), description="further flags of `rlaif serve`")
    sample: SamplingConfig = SamplingConfig()
    label: JudgingConfig = JudgingConfig()
    reward: RewardConfig = RewardConfig()
    dpo: DPOConfig = DPOConfig()
    ppo: PPOConfig = PPOConfig()
    respond: SamplingConfig = SamplingConfig(n=1)
    evaluate: JudgingConfig = JudgingConfig()
    minutes: dict[str, float] = Field(
        default_factory=dict, description="how long each stage took where it was measured"
    )


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
            for file in resources.files("rlaif.recipes").iterdir()
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


def run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Run the stages that are not finished, and print the result."""
    from rlaif.evaluation import EvaluationResult, print_table

    run_stages(_Run(recipe, run_dir, console).stages(), run_dir, console)
    print_table(EvaluationResult.load(run_dir / "evaluation" / "evaluation.json"), console)
    console.print(f"report: {run_dir / 'report' / 'report.html'}", highlight=False, soft_wrap=True)


def dry_run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Say what `run` would do. Nothing is loaded, fetched or written."""
    stages = _Run(recipe, run_dir, console).stages()
    waiting = False  # an unfinished stage before: what follows cannot be known to be finished
    for place, stage in enumerate(stages, start=1):
        waiting = waiting or not is_finished(stage, run_dir, input_digest(stage))
        state = f"about {stage.minutes:g} min" if waiting else "finished, would be skipped"
        console.print(f"{place}/{len(stages)} [bold]{stage.name}[/bold]  {stage.does}  [dim]{state}[/dim]")


class _Run:
    """The stages of a recipe in one folder: what each does, needs and leaves."""

    def __init__(self, recipe: Recipe, folder: Path, console: Console) -> None:
        self.recipe = recipe
        self.folder = folder
        self.console = console
        self.constitution = Constitution.load(recipe.constitution)
        self.samples = folder / "samples" / "samples.jsonl"
        self.labels = folder / "labels" / "preferences.parquet"
        self.reward = folder / "reward"
        self.policies = {"DPO": folder / "dpo", "PPO": folder / "ppo"}

    def stages(self) -> list[Stage]:
        r = self.recipe
        n_train, n_heldout = len(self.prompts("train")), len(self.prompts("heldout"))
        labels = self.labels
        return [
            self._stage("models", f"fetching {r.policy} and {r.judge} where they lack",
                        "models", lambda: [r.policy, r.judge], self.fetch),
            self._stage("sample", f"{r.policy} answers {n_train} prompts, {r.sample.n} times each",
                        "samples", lambda: [r.policy, r.sample, self.prompts("train")], self.draw),
            self._stage("label", f"{r.judge} compares the answers by constitution {self.constitution.name}",
                        "labels", lambda: [r.judge, self.constitution.digest, r.label, r.judge_flags,
                                           content_digest(self.samples)], self.judge, keeps_its_own=True),
            self._stage("reward", "training the reward model on the soft labels",
                        "reward", lambda: [r.policy, r.reward, r.reward_heldout,
                                           self.constitution.trait_weights, content_digest(labels)], self.train_reward),
            self._stage("dpo", "training the policy on the labels, directly",
                        "dpo", lambda: [r.policy, r.dpo, content_digest(labels)], self.train_dpo),
            self._stage("ppo", "training the policy against the reward model",
                        "ppo", lambda: [r.policy, r.ppo, self.prompts("train"), folder_digest(self.reward)], self.train_ppo),
            self._stage("respond", f"start, DPO and PPO answer {n_heldout} held-out prompts",
                        "responses", lambda: [r.policy, r.respond, self.prompts("heldout"),
                                              *map(folder_digest, self.policies.values())], self.respond),
            self._stage("evaluate", f"{r.judge} compares them with the start",
                        "evaluation", lambda: [r.judge, self.constitution.digest, r.evaluate, r.judge_flags,
                                               folder_digest(self.folder / "responses"), folder_digest(self.reward)],
                        self.evaluate, keeps_its_own=True),
            self._stage("report", "drawing the report", "report",
                        lambda: content_digest(self.folder / "evaluation" / "evaluation.json"), self.report),
        ]  # fmt: skip
