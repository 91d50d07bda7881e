"""ppo: proximal policy optimization against scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.data.records import Prompt, Sample, read_jsonl
from rlaif.pipeline.context import RunContext, first_samples
from rlaif.pipeline.options import ConstitutionOptions, JudgingConfig, PromptOptions
from rlaif.pipeline.scores import REWARD_SLOT, code_of, open_scores, refused_rewards
from rlaif.pipeline.stage import (
    ArtifactType,
    Slot,
    Stage,
    evaluator_slot,
    names_of,
    one,
    refused_judges,
)

if TYPE_CHECKING:
    from rlaif.algorithms.ppo.evaluation import HeldOutJudge
    from rlaif.evaluation.comparison import Compare


class PPOOptions(PromptOptions, ConstitutionOptions):
    """Which prompts to train on; with eval_every, how its judge judges."""

    judging: JudgingConfig = Field(
        default=JudgingConfig(), description="settings of the judge's comparisons"
    )


class PPOStage(Stage):
    """Trains a policy against scores, and with eval_every watches it by a judge."""

    kind = "ppo"
    takes = {
        "model": one(ArtifactType.MODEL, "what training begins from, and the reference"),
        "reward": REWARD_SLOT,
        "judge": evaluator_slot("decides on going back"),
        "samples": one(ArtifactType.SAMPLES, "of `model`, which it compares with", files=True),
    }
    gives = ArtifactType.POLICY
    settings_class = PPOConfig
    options_class = PPOOptions

    @classmethod
    def slots(cls, settings: PPOConfig) -> Mapping[str, Slot]:
        if settings.set_for_a_judge():
            return cls.takes
        return {name: slot for name, slot in cls.takes.items() if name in ("model", "reward")}

    def refused(self) -> Iterator[tuple[str, str]]:
        yield from refused_rewards(self.sources["reward"])
        yield from refused_judges("judge", self.sources.get("judge", ()))

    def does(self, context: RunContext) -> str:
        guard = f", guarded by {self.source('judge').title}" if self._judged else ""
        rewards = names_of(self.sources["reward"])
        return f"training {self.source('model').title} against {rewards}{guard}"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        prompts = self._prompts(context)
        inputs = {"prompts": prompts, **code_of(self.sources["reward"])}
        if not self._judged:
            return inputs
        constitution = context.constitution(self.options.constitution)
        return inputs | {"constitution": constitution.digest}

    def _prompts(self, context: RunContext) -> list[Prompt]:
        return context.training_prompts(self.options.prompts, holds_out=self.holds_out)

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.ppo.train import train
        from rlaif.batching.origins import naming_files

        prompts = self._prompts(context)
        model = self.source("model")
        with (
            open_scores(self.sources["reward"], model) as score,
            naming_files((context.recipe.prompts, prompts)),
        ):
            run = partial(train, self.settings, model.model, prompts, score, self.folder)
            if not self._judged:
                run()
                return
            with context.compared_by(
                self.source("judge").judge,
                self.folder,
                self.options.constitution,
                self.options.judging,
            ) as compare:
                run(judge=self._better_than_the_start(compare))

    @property
    def _judged(self) -> bool:
        return "judge" in self.sources

    def _better_than_the_start(self, compare: Compare) -> HeldOutJudge:
        """Mean P(better than the start's first sample), on training prompts that PPO holds out:
        the recipe's held-out ones stay for evaluation."""
        from rlaif.feedback.client import held_out_judge

        start = first_samples(read_jsonl(self.source("samples").file, Sample))
        return held_out_judge(compare, start)
