"""label: a judge's preferences between samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rlaif.data.prompt_split import TRAIN
from rlaif.data.records import RecordError, Sample
from rlaif.data.samples import read_samples
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet.places import fleet_of
from rlaif.pipeline.options import ConstitutionOptions, JudgingConfig
from rlaif.pipeline.stage import ArtifactType, Files, Stage, judge_slot, one

if TYPE_CHECKING:
    from judge_service.client.sync import JudgeClient
    from judge_service.types import Comparison
    from rlaif.feedback.labeler import LabelingClient
    from rlaif.feedback.pairs import Pairs
    from rlaif.pipeline.fleet.work import AnsweredJudge


class LabelingConfig(JudgingConfig):
    """Settings of labeling."""

    pairs: Literal["disjoint", "extremes"] = Field(
        default="disjoint",
        description="which responses are compared: disjoint, those that share no response first; "
        "extremes, the best with the worst, found by comparing each with the next around a circle",
    )
    pairs_per_prompt: int = Field(
        default=1, ge=1, description="of its responses; the first ones share no response"
    )
    max_length_ratio: float | None = Field(
        default=None,
        ge=1,
        description="of the longer response to the shorter one, in characters; pairs above it are "
        "not drawn, so that a preference for length decides little",
    )
    filter: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="responses that the judge rates below minus this by any principle, on a scale "
        "from -1 to 1, are dropped first; null: none",
    )

    budget_reads: int | None = Field(
        default=None,
        ge=1,
        description="the judge's reads at most, two for every principle of a pair; the pairs that "
        "it leaves out are random, and counted",
    )

    @model_validator(mode="after")
    def _extremes_are_one_pair(self) -> LabelingConfig:
        if self.pairs == "extremes":
            for name in ("pairs_per_prompt", "max_length_ratio", "budget_reads"):
                if (value := getattr(self, name)) != LabelingConfig.model_fields[name].default:
                    raise ValueError(
                        f"{name}={value}: has no effect with pairs=extremes, which is one pair a "
                        "prompt after as many comparisons as there are responses; remove one of "
                        "the two"
                    )
        return self


class LabelStage(Stage):
    """Compares the samples of each prompt by a constitution."""

    kind = "label"
    takes = {
        "samples": one(ArtifactType.SAMPLES, "responses to compare", many=True, files=True),
        "judge": judge_slot("what compares them"),
    }
    gives = ArtifactType.PREFERENCES
    settings_class = LabelingConfig
    options_class = ConstitutionOptions
    keeps_its_own = True  # the journal has every answer by its content
    grows_with = TRAIN
    has_shards = True

    def off_fleet(self) -> str:
        if self.settings.pairs == "extremes":
            return "pairs=extremes chooses a pair by the answers to others"
        if self.settings.budget_reads is not None:
            return "budget_reads counts the pairs of all prompts"
        return ""

    def does(self, context: RunContext) -> str:
        constitution = context.constitution(self.options.constitution)
        return (
            f"{self.source('judge').title} compares the responses by constitution "
            f"{constitution.name} {constitution.version}"
        )

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"constitution": context.constitution(self.options.constitution).digest}

    def run(self, context: RunContext) -> None:
        from judge_service.planted.file import PlantedJudge
        from rlaif.data.datasets import read_preferences
        from rlaif.evaluation.gold import GOLD_FILE, gold_labels
        from rlaif.feedback.counts import NotAsked
        from rlaif.feedback.earlier_labels import Earlier
        from rlaif.feedback.filter import filter_samples
        from rlaif.feedback.labeler import label
        from rlaif.feedback.undecided import report_undecided, undecided_warning

        samples = [s for each in self.sources["samples"] for s in read_samples(each.file)]
        self._require_pairs(samples)  # before a judge is loaded
        judge, constitution = self.source("judge").spec, self.options.constitution
        rules = context.constitution(constitution)
        broken, unrated = dict[str, int](), 0
        with self._judge(samples, context) as client:
            if self.settings.filter is not None:
                left = filter_samples(
                    samples,
                    client,
                    self.folder,
                    margin=self.settings.filter,
                    constitution=rules.name,
                    options=self.settings.options(),
                )
                samples, broken, unrated = left.kept, left.broken, left.unrated
            pairs, pairing_reads = self._pairs(samples, client, rules.name)
            comparisons = self._within_budget(pairs.comparisons, context)
            done = label(
                comparisons,
                client,
                self.folder,
                constitution=rules.name,
                options=self.settings.options(),
                not_asked=NotAsked(
                    identical=pairs.identical,
                    unequal=pairs.unequal,
                    filtered=broken,
                    unrated=unrated,
                    over_budget=len(pairs.comparisons) - len(comparisons),
                    pairing_reads=pairing_reads,
                ),
                earlier=Earlier.OVERWRITE,  # a changed recipe; the journal has every answer
            )
        report_undecided(undecided_warning(done.undecided, done.judged, done.mean_entropy))
        if judge.is_planted:
            truth = PlantedJudge.load(judge.model)
            labels = read_preferences(self.outputs.paths[0])
            gold_labels(truth.name, labels, truth.gold.score).save(self.folder / GOLD_FILE)
        else:
            (self.folder / GOLD_FILE).unlink(missing_ok=True)  # of an earlier judge

    def _judge(
        self, samples: Sequence[Sample], context: RunContext
    ) -> AbstractContextManager[JudgeClient | AnsweredJudge]:
        """The judge; with a fleet, one that has answered already."""
        from rlaif.pipeline.fleet import work as fleets
        from rlaif.sharding.labeling import LabelShards

        judge, constitution = self.source("judge").spec, self.options.constitution
        if fleet_of(self, context.recipe) is None:
            return context.judge_client(judge, constitution, self.folder / "judge.log")
        job = LabelShards(
            fleets.anywhere(judge.model),
            constitution=fleets.anywhere(context.constitution_source(constitution)),
            pairs_per_prompt=self.settings.pairs_per_prompt,
            max_length_ratio=self.settings.max_length_ratio,
            filter_margin=self.settings.filter,
            options=self.settings.options(),
            gpus=fleets.judge_gpus(self, context.recipe),
            flags=fleets.judge_flags(judge),
            pair_seed=0,  # as pairs are drawn here
            keep=True,
        )
        return fleets.answered(self, context, samples, lambda _: job)

    def _require_pairs(self, samples: Sequence[Sample]) -> None:
        """Raises RecordError where no prompt has two different responses to compare."""
        from rlaif.feedback.pairs import pairs_from_samples

        found = pairs_from_samples(samples, max_length_ratio=self.settings.max_length_ratio)
        if found.comparisons:
            return
        names = ", ".join(source.text for source in self.sources["samples"])
        if found.unequal:
            raise RecordError(
                f"{names}: no pairs to compare: the lengths of all {found.unequal} differ by more "
                f"than max_length_ratio={self.settings.max_length_ratio:g}; raise it, or remove it"
            )
        equal = "have one response each" if not found.identical else "have identical responses only"
        prompts = len({sample.prompt.id for sample in samples})
        raise RecordError(
            f"{names}: no pairs to compare: all {prompts} prompts {equal}; sample more responses "
            "(n), at a higher temperature"
        )

    def _pairs(
        self, samples: Sequence[Sample], client: LabelingClient, constitution: str
    ) -> tuple[Pairs, int]:
        """(the pairs to label, the reads that finding them took besides)."""
        from judge_service.types import Judgment
        from rlaif.feedback.labeler import JOURNAL, judge_pairs
        from rlaif.feedback.pairs import Pairs, circle_pairs, extreme_pairs, pairs_from_samples

        settings = self.settings
        if settings.pairs == "disjoint":
            found = pairs_from_samples(
                samples,
                pairs_per_prompt=settings.pairs_per_prompt,
                max_length_ratio=settings.max_length_ratio,
            )
            return found, 0
        # The labels' own journal: a pair of the circle that is the extreme one is not read again.
        circle = circle_pairs(samples)
        answers = judge_pairs(
            circle.comparisons,
            client,
            self.folder / JOURNAL,
            constitution=constitution,
            options=settings.options(),
        )
        judged = [(pair.id, answer) for pair, answer in answers.by_pair()]
        probs = {id: each.prob_a if isinstance(each, Judgment) else None for id, each in judged}
        chosen = extreme_pairs(samples, probs)
        kept = {pair.id for pair in chosen}
        reads = sum(answer.usage.reads for id, answer in judged if id not in kept)
        return Pairs(chosen, circle.identical), reads

    def _within_budget(
        self, pairs: tuple[Comparison, ...], context: RunContext
    ) -> tuple[Comparison, ...]:
        """The pairs that budget_reads leaves; says how many those are."""
        from rlaif.feedback.pairs import within_reads

        budget = self.settings.budget_reads
        if budget is None:
            return pairs
        principles = context.constitution(self.options.constitution).principles
        kept = within_reads(pairs, principles, budget, self.settings.sample_principles)
        if len(kept) < len(pairs):
            print(
                f"budget_reads={budget}: {len(kept)} of {len(pairs)} pairs are judged",
                file=sys.stderr,
            )
        return kept

    @property
    def outputs(self) -> Files:
        return Files((self.folder / "preferences.parquet",))
