"""A recipe (YAML) becomes stages; each is skipped when its inputs did not change.

    models ─ sample ─ label ─┬─ reward ─ ppo ─┐
                             └─ dpo ──────────┴─ respond ─ evaluate   (then the report)

A recipe names the policy, the judge, the constitution and the prompts, and holds the settings of
every stage. `rlaif run RECIPE key=value …` changes any of them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from constitution import Constitution, Message
from constitution.errors import UserError
from judge_service.client import JudgeClient
from judge_service.judgment import JudgeOptions
from rlaif import backbone, dpo, evaluation, models, ppo, reward_model, sampling
from rlaif.commands import configured
from rlaif.dpo import DPOConfig
from rlaif.judging import judge_client
from rlaif.labeling import comparer, label
from rlaif.pairing import pairs_from_samples
from rlaif.ppo import PPOConfig
from rlaif.prompts import load_prompts
from rlaif.records import Preference, Prompt, Sample, read_jsonl, read_preferences, write_json
from rlaif.report import write_report
from rlaif.reward_model import RewardConfig
from rlaif.sampling import SamplingConfig
from rlaif.scoring import RewardModel
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


class LabelingConfig(JudgingConfig):
    """How the judge is asked for labels, and how often."""

    pairs_per_prompt: int = Field(
        default=1, ge=1, description="of its responses; the first ones share no response"
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
    system: str = Field(default="", description="a system message before every prompt")
    train_prompts: int | None = Field(default=None, ge=2, description="the first N; all by default")
    heldout_prompts: int | None = Field(default=None, ge=2)
    reward_heldout: float = Field(
        default=0.2, gt=0, lt=1, description="share of labelled pairs kept to evaluate the reward"
    )
    judge_flags: tuple[str, ...] = Field(default=(), description="further flags of `rlaif serve`")
    sample: SamplingConfig = SamplingConfig()
    label: LabelingConfig = LabelingConfig()
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

    work = _Run(recipe, run_dir)
    run_stages(work.stages(), run_dir, console)
    work.report()
    print_table(EvaluationResult.load(run_dir / "evaluation" / "evaluation.json"), console)
    console.print(f"report: {run_dir / 'report.html'}", highlight=False, soft_wrap=True)


def dry_run(recipe: Recipe, run_dir: Path, console: Console) -> None:
    """Say what `run` would do. Nothing is loaded, fetched or written."""
    stages = _Run(recipe, run_dir).stages()
    waiting = False  # an unfinished stage before: what follows cannot be known to be finished
    for place, stage in enumerate(stages, start=1):
        waiting = waiting or not is_finished(stage, run_dir, input_digest(stage))
        state = f"about {stage.minutes:g} min" if waiting else "finished, would be skipped"
        console.print(
            f"{place}/{len(stages)} [bold]{stage.name}[/bold]  {stage.does}  [dim]{state}[/dim]"
        )


class _Run:
    """The stages of a recipe in one folder: what each does, needs and leaves."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.constitution = Constitution.load(recipe.constitution)
        self.samples = folder / "samples" / "samples.jsonl"
        self.labels = folder / "labels" / "preferences.parquet"
        self.reward = folder / "reward"
        self.policies = {"DPO": folder / "dpo", "PPO": folder / "ppo"}

    def stages(self) -> list[Stage]:
        r = self.recipe
        law = self.constitution
        train, heldout = self.prompts("train"), self.prompts("heldout")
        label_inputs = [r.judge, r.judge_flags, law.digest]
        return [
            self._stage(
                "models",
                "models",
                f"fetching {r.policy} and {r.judge} where they lack",
                lambda: [r.policy, r.judge],
                self.fetch,
            ),
            self._stage(
                "sample",
                "samples",
                f"{r.policy} answers {len(train)} prompts, {r.sample.n} times each",
                lambda: [r.policy, r.sample, train],
                self.draw,
            ),
            self._stage(
                "label",
                "labels",
                f"{r.judge} compares the answers by constitution {law.name} {law.version}",
                lambda: [*label_inputs, r.label, content_digest(self.samples)],
                self.judge,
                keeps_its_own=True,
            ),
            self._stage(
                "reward",
                "reward",
                "training the reward model on the soft labels",
                lambda: [
                    [r.policy, r.reward, r.reward_heldout, law.trait_weights],
                    content_digest(self.labels),
                ],
                self.train_reward,
            ),
            self._stage(
                "dpo",
                "dpo",
                "training the policy directly on the labels",
                lambda: [r.policy, r.dpo, content_digest(self.labels)],
                self.train_dpo,
            ),
            self._stage(
                "ppo",
                "ppo",
                "training the policy against the reward model",
                lambda: [r.policy, r.ppo, train, folder_digest(self.reward)],
                self.train_ppo,
            ),
            self._stage(
                "respond",
                "responses",
                f"start, DPO and PPO answer {len(heldout)} held-out prompts",
                lambda: [r.policy, r.respond, heldout, *map(folder_digest, self.policies.values())],
                self.respond,
            ),
            self._stage(
                "evaluate",
                "evaluation",
                f"{r.judge} compares DPO and PPO with the start",
                lambda: [
                    [*label_inputs, r.evaluate],
                    *map(folder_digest, (self.folder / "responses", self.reward)),
                ],
                self.evaluate,
                keeps_its_own=True,
            ),
        ]

    def _stage(
        self,
        name: str,
        folder: str,
        does: str,
        inputs: Callable[[], Any],
        run: Callable[[], None],
        *,
        keeps_its_own: bool = False,
    ) -> Stage:
        minutes = self.recipe.minutes.get(name, 0.0)
        return Stage(name, does, self.folder / folder, inputs, run, minutes, keeps_its_own)

    def prompts(self, split: str) -> list[Prompt]:
        """The recipe's prompts of a split, its system message before each."""
        found = load_prompts(self.recipe.prompts, split)
        limit = self.recipe.train_prompts if split == "train" else self.recipe.heldout_prompts
        if not self.recipe.system:
            return found[:limit]
        system = Message(role="system", content=self.recipe.system)
        return [p.model_copy(update={"messages": (system, *p.messages)}) for p in found[:limit]]

    # 1. models
    def fetch(self) -> None:
        for name in (self.recipe.policy, self.recipe.judge):
            if name in models.KNOWN:
                models.fetch(name)
            else:
                models.resolve(name)

    @property
    def policy(self) -> str:
        return models.resolve(self.recipe.policy)

    # 2. sample
    def draw(self) -> None:
        sampling.sample(self.policy, self.prompts("train"), self.samples, self.recipe.sample)

    # 3. label
    def judge(self) -> None:
        pairs = pairs_from_samples(
            read_jsonl(self.samples, Sample), pairs_per_prompt=self.recipe.label.pairs_per_prompt
        )
        with self.court() as client:
            label(
                pairs.comparisons,
                client,
                self.labels.parent,
                constitution=self.constitution.name,
                options=self.recipe.label.options(),
                identical=pairs.identical,
            )

    def court(self) -> AbstractContextManager[JudgeClient]:
        """A judge server of our own, and a client to it."""
        return judge_client(
            self.recipe.judge,
            self.recipe.constitution,
            self.folder / "judge.log",
            flags=self.recipe.judge_flags,
        )

    # 4. reward
    def train_reward(self) -> None:
        train, heldout = self.split_labels()
        weights = self.constitution.trait_weights
        reward_model.train(self.recipe.reward, self.policy, train, self.reward, weights, heldout)

    def split_labels(self) -> tuple[list[Preference], list[Preference]]:
        """(to train the reward model on, kept to evaluate it): by prompt, decided by its text."""
        train: list[Preference] = []
        heldout: list[Preference] = []
        for preference in read_preferences(self.labels):
            text = "\0".join(message.content for message in preference.prompt)
            place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
            (heldout if place < self.recipe.reward_heldout else train).append(preference)
        if not train or not heldout:
            raise RecipeError(
                f"reward_heldout={self.recipe.reward_heldout} leaves {len(train)} pairs to train "
                f"on and {len(heldout)} to evaluate; label more pairs or change it"
            )
        return train, heldout

    # 5. dpo
    def train_dpo(self) -> None:
        dpo.train(self.recipe.dpo, self.policy, read_preferences(self.labels), self.folder / "dpo")

    # 6. ppo
    def train_ppo(self) -> None:
        ppo.train(
            self.recipe.ppo, self.policy, self.prompts("train"), self.reward, self.folder / "ppo"
        )

    # 7. respond
    def respond(self) -> None:
        folder, prompts = self.folder / "responses", self.prompts("heldout")
        sampling.sample(self.policy, prompts, folder / "start.jsonl", self.recipe.respond)
        for name, adapter in self.policies.items():
            merged = folder / f"{name}-merged"
            backbone.merge_adapter(self.policy, adapter, merged)
            sampling.sample(str(merged), prompts, folder / f"{name}.jsonl", self.recipe.respond)
            shutil.rmtree(merged)

    # 8. evaluate
    def evaluate(self) -> None:
        scorer = RewardModel.load(self.policy, self.reward)
        start = self.policy_run("start", scorer)
        trained = [self.policy_run(name, scorer) for name in self.policies]
        with self.court() as client:
            compare = comparer(
                client,
                self.folder / "evaluation" / "answers.journal.jsonl",
                constitution=self.constitution.name,
                options=self.recipe.evaluate.options(),
            )
            result = evaluation.evaluate(start, trained, compare)
        result.save(self.folder / "evaluation" / "evaluation.json")

    def policy_run(self, name: str, scorer: RewardModel) -> evaluation.PolicyRun:
        path = self.folder / "responses" / f"{name}.jsonl"
        samples = read_jsonl(path, Sample)
        kl = None
        if name in self.policies:
            logprobs = backbone.response_logprobs(self.policy, self.policies[name])
            kl = evaluation.estimate_kl(samples, logprobs.policy, logprobs.reference)
        rewards = scorer.overall_scores(
            [s.prompt.messages for s in samples], [s.response for s in samples]
        )
        return evaluation.PolicyRun(name, samples, rewards, kl, sampling.tokens_per_second(path))

    # last, and every time: it costs seconds
    def report(self) -> None:
        facts = {
            "recipe": self.recipe.name,
            "policy": self.recipe.policy,
            "judge": self.recipe.judge,
            "constitution": f"{self.constitution.name} {self.constitution.version} "
            f"(sha256 {self.constitution.digest[:16]})",
            "sampling seed": str(self.recipe.sample.seed),
            "date": date.today().isoformat(),
        }
        write_json(self.folder / "run.json", facts)
        write_report(self.folder, self.folder / "report.html")


def folder_digest(folder: Path) -> dict[str, str]:
    """sha256 of every file a stage left, checkpoints aside."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "checkpoints" not in f.parts]
    return {str(f.relative_to(folder)): content_digest(f)[f.name] for f in files}
