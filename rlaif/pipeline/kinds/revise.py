"""revise: a judge's critiques and revisions of samples, as lessons and as soft preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from judge_service.planted.file import PlantedJudge
from rlaif.data.prompt_split import TRAIN
from rlaif.data.records import Prompt, Sample
from rlaif.data.samples import read_samples
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet.places import fleet_of
from rlaif.pipeline.kinds.sample import SampleStage
from rlaif.pipeline.options import ConstitutionOptions, JudgingConfig
from rlaif.pipeline.stage import ArtifactType, Files, Stage, judge_slot, one

if TYPE_CHECKING:
    from rich.console import Console

    from judge_service.client.sync import JudgeClient
    from rlaif.feedback.revisions.lessons import RevisionMethod
    from rlaif.pipeline.fleet.work import AnsweredJudge


class RevisionConfig(JudgingConfig):
    """Settings of revising; sample_principles is of the gate's comparisons."""

    rounds: int = Field(
        default=1,
        ge=1,
        description="critiques and revisions of a response, each on the one before, by a principle "
        "drawn anew (arXiv:2212.08073: 4)",
    )
    gate: float | None = Field(
        default=0.55,
        ge=0.5,
        lt=1,
        description="least P(the revision is better than its original), by the judge in both "
        "orders; null: no comparison, and no pairs (ours)",
    )
    pilot: int | None = Field(
        default=32,
        ge=1,
        description="responses that go all the way first; without a lesson among them the stage "
        "stops there; null: never (ours)",
    )
    max_tokens: int = Field(
        default=256, ge=1, description="of each critique and each revision (ours)"
    )
    temperature: float = Field(
        default=1.0, ge=0, description="of critiques and revisions (arXiv:2212.08073: 1)"
    )


class ReviseStage(Stage):
    """Has every sample criticized and rewritten, and keeps what the judge finds better."""

    kind = "revise"
    takes = {
        "samples": one(ArtifactType.SAMPLES, "responses to revise", many=True, files=True),
        "judge": judge_slot("what writes, and compares"),
    }
    gives = ArtifactType.DEMONSTRATIONS
    settings_class = RevisionConfig
    options_class = ConstitutionOptions
    keeps_its_own = True  # the journals have every answer by its content
    grows_with = TRAIN
    has_shards = True

    def refused(self) -> Iterator[tuple[str, str]]:
        judge = self.source("judge").spec
        if judge.is_planted and PlantedJudge.load(judge.model).skill is None:
            yield (
                "judge",
                f"{judge.model} reads labels and does not write; give it `skill: 0.7` in its file, "
                "or name a model",
            )

    def does(self, context: RunContext) -> str:
        from rlaif.feedback.revisions.summary import one_kind_only

        prompts = self._prompts(context)
        kinds = Counter(prompt.kind for prompt in prompts if prompt.kind)
        about = f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})" if kinds else ""
        of = f" to {len(prompts)} prompts{about}" if prompts else ""
        warning = one_kind_only(prompts)
        return (
            f"{self.source('judge').title} criticizes and revises the responses{of}"
            f"{f'; careful: {warning}' if warning else ''}"
        )

    def _prompts(self, context: RunContext) -> list[Prompt]:
        """Those that the samples are about, as far as they are known before there are any."""
        found: list[Prompt] = []
        for source in self.sources["samples"]:
            if isinstance(source.stage, SampleStage):
                found += context.prompts(source.stage.options.prompts)
        return found

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"constitution": context.constitution(self.options.constitution).digest}

    def run(self, context: RunContext) -> None:
        from rlaif.data.datasets import read_preferences
        from rlaif.evaluation.gold import GOLD_FILE, gold_labels
        from rlaif.feedback.revisions.lessons import RevisionMethod, revise

        samples = [s for each in self.sources["samples"] for s in read_samples(each.file)]
        judge, constitution = self.source("judge").spec, self.options.constitution
        method = RevisionMethod(
            constitution=context.constitution(constitution).name, **self.settings.model_dump()
        )
        with self._judge(samples, method, context) as client:
            revise(samples, client, self.folder, method)
        if judge.is_planted and self.settings.gate is not None:
            truth = PlantedJudge.load(judge.model)
            pairs = read_preferences(self.file_of("pairs"))
            gold_labels(truth.name, pairs, truth.gold.score).save(self.folder / GOLD_FILE)
        else:
            (self.folder / GOLD_FILE).unlink(missing_ok=True)  # of an earlier judge

    def _judge(
        self, samples: Sequence[Sample], method: RevisionMethod, context: RunContext
    ) -> AbstractContextManager[JudgeClient | AnsweredJudge]:
        """The judge; with a fleet, one that has answered already."""
        from rlaif.pipeline.fleet import work as fleets
        from rlaif.sharding.revising import ReviseShards

        judge, constitution = self.source("judge").spec, self.options.constitution
        if fleet_of(self, context.recipe) is None:
            return context.judge_client(judge, constitution, self.folder / "judge.log")
        by = fleets.anywhere(context.constitution_source(constitution))

        def job(shards: tuple[str, ...]) -> ReviseShards:
            return ReviseShards(
                replace(method, constitution=by),
                shards,
                fleets.anywhere(judge.model),
                gpus=fleets.judge_gpus(self, context.recipe),
                flags=fleets.judge_flags(judge),
                keep=True,
            )

        return fleets.answered(self, context, samples, job)

    @property
    def outputs(self) -> Files:
        return Files(tuple(self.file_of(part) for part in ("", *self.parts)))

    @property
    def parts(self) -> Mapping[str, ArtifactType]:
        return {} if self.settings.gate is None else {"pairs": ArtifactType.PREFERENCES}

    def file_of(self, part: str = "") -> Path:
        return self.folder / ("pairs.parquet" if part else "lessons.jsonl")

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.feedback.revisions.lessons import SUMMARY
        from rlaif.feedback.revisions.summary import RevisionSummary

        for sentence in RevisionSummary.load(self.folder / SUMMARY).sentences():
            console.print(f"{self.name}: {sentence}", highlight=False, soft_wrap=True)
