"""sample: responses of a model to the recipe's prompts."""

from __future__ import annotations

from typing import Any

from rlaif.data.prompt_split import TRAIN
from rlaif.data.records import write_jsonl
from rlaif.data.samples import iter_samples
from rlaif.generation.config import SamplingConfig
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet.places import fleet_of
from rlaif.pipeline.options import PromptOptions
from rlaif.pipeline.stage import ArtifactType, Files, Stage, one


class SampleStage(Stage):
    """Draws n responses to every prompt."""

    kind = "sample"
    takes = {"model": one(ArtifactType.MODEL, "what answers")}
    gives = ArtifactType.SAMPLES
    settings_class = SamplingConfig
    options_class = PromptOptions
    grows_with = TRAIN
    has_shards = True

    def does(self, context: RunContext) -> str:
        prompts = len(context.prompts(self.options.prompts))
        return (
            f"{self.source('model').title} answers {prompts} prompts, {self.settings.n} times each"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"prompts": context.prompts(self.options.prompts)}

    def run(self, context: RunContext) -> None:
        from rlaif.generation.base import naming_prompts
        from rlaif.generation.offline import sample
        from rlaif.pipeline.fleet.work import anywhere, shards_made
        from rlaif.sharding.sampling import SampleShards

        prompts = context.prompts(self.options.prompts)
        with naming_prompts(context.recipe.prompts, prompts):
            if fleet_of(self, context.recipe) is None:
                sample(self.source("model").model, prompts, self.outputs.paths[0], self.settings)
                return
            job = SampleShards(anywhere(self.source("model").model), self.settings)
            with shards_made(self, context, prompts, lambda _: job) as out:
                write_jsonl(self.outputs.paths[0], iter_samples(out))

    @property
    def outputs(self) -> Files:
        return Files((self.folder / "samples.jsonl",))
