"""rest: reinforced self-training, which imitates the policy's own best responses."""

from __future__ import annotations

from typing import Any

from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.data.prompt_split import TRAIN
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import PromptOptions
from rlaif.pipeline.scores import REWARD_SLOT, open_scores
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

    def does(self, context: RunContext) -> str:
        return (
            f"training {self.source('model').title} on its responses that "
            f"{names_of(self.sources['reward'])} scores highest"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"prompts": context.prompts(self.options.prompts)}

    def run(self, context: RunContext) -> None:
        from rlaif.algorithms.rest.train import train

        prompts = context.prompts(self.options.prompts)
        model = self.source("model")
        with open_scores(self.sources["reward"], model) as score:
            train(self.settings, model.model, prompts, score, self.folder)
