"""rest: reinforced self-training, which imitates the policy's own best responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.data.prompt_split import TRAIN
from rlaif.data.records import Prompt
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import PromptOptions
from rlaif.pipeline.scores import REWARD_SLOT, code_of, open_scores, refused_rewards
from rlaif.pipeline.stage import ArtifactType, Stage, names_of, one


class ReSTStage(Stage):
    """Samples, keeps what scores best, imitates it."""

    kind = "rest"
    takes = {
        "model": one(ArtifactType.MODEL, "what training begins from"),
        "reward": REWARD_SLOT,
    }
    gives = ArtifactType.POLICY
    settings_class = ReSTConfig
    options_class = PromptOptions
    grows_with = TRAIN

    def refused(self) -> Iterator[tuple[str, str]]:
        yield from refused_rewards(self.sources["reward"])

    def does(self, context: RunContext) -> str:
        return (
            f"training {self.source('model').title} on its responses that "
            f"{names_of(self.sources['reward'])} scores highest"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        prompts = self._prompts(context)
        return {"prompts": prompts, **code_of(self.sources["reward"])}

    def _prompts(self, context: RunContext) -> list[Prompt]:
        return context.training_prompts(self.options.prompts, holds_out=self.holds_out)

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.rest.train import train
        from rlaif.batching.origins import naming_files

        prompts = self._prompts(context)
        model = self.source("model")
        with (
            open_scores(self.sources["reward"], model) as score,
            naming_files((context.recipe.prompts, prompts)),
        ):
            train(self.settings, model.model, prompts, score, self.folder)
