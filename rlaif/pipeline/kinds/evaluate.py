"""evaluate: policies compared with their start by one judge or several, with 95 % intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from constitution.errors import UserError
from rlaif.data.prompt_split import HELD_OUT
from rlaif.data.records import HumanVerdict, RecordError, Sample, read_jsonl
from rlaif.evaluation.anytime import stop_rule
from rlaif.evaluation.judges.worth import WorthError, read_worth, require_taking_part
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds.evaluating import (
    kl_to_start,
    label_sources,
    labelers_of_stages,
    planted_among,
    reward_model_of,
    reward_scores,
    stages_before,
)
from rlaif.pipeline.kinds.label import LabelStage
from rlaif.pipeline.kinds.respond import START, RespondStage, SamplerStage
from rlaif.pipeline.options import ConstitutionOptions, JudgingConfig
from rlaif.pipeline.recipe import ModelSpec
from rlaif.pipeline.stage import (
    ArtifactType,
    Files,
    Stage,
    evaluator_slot,
    names_of,
    one,
    refused_judges,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif.evaluation.comparison import Compare, EvaluatorModel
    from rlaif.evaluation.policies import KL, EvaluationResult, PolicyRun
    from rlaif.models.reward_model import RewardModel


FEW_PROMPTS = 20  # with fewer, a win rate's 95 % interval is over 40 points wide


class EvaluateOptions(ConstitutionOptions):
    """By which constitution the judges judge, what they are known to be worth, on how many
    prompts, and what else is found."""

    judge_worth: tuple[str, ...] = Field(
        default=(),
        description="JSON files with how often the judges are right on gold; shipped judges' "
        "figures are known",
    )

    until: str | float | None = Field(
        default=None,
        description="stop judging a policy when its win rate is settled (its interval excludes "
        "50 %), or its interval is this wide, such as 0.2; all prompts by default",
    )
    human: str = Field(
        default="", description="JSON lines of human verdicts, for win rates by people (PPI++)"
    )
    round_robin: bool = Field(
        default=False, description="compare every two policies, too: Bradley-Terry strengths"
    )

    @field_validator("judge_worth", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _intervals_hold(self) -> EvaluateOptions:
        try:
            stop_rule(self.until, human=bool(self.human), round_robin=self.round_robin)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class EvaluateStage(Stage):
    """Judges every policy's responses against the start's, in both orders, by one judge after
    another."""

    kind = "evaluate"
    takes = {
        "responses": one(ArtifactType.RESPONSES, "what is compared"),
        "judges": evaluator_slot("what compares; one or several", many=True, prefers="second"),
        "reward": one(ArtifactType.REWARD_MODEL, "scores the responses, too", optional=True),
    }
    gives = ArtifactType.EVALUATION
    settings_class = JudgingConfig
    options_class = EvaluateOptions
    keeps_its_own = True  # the journal has every answer by its content
    is_result = True
    grows_with = HELD_OUT

    def refused(self) -> Iterator[tuple[str, str]]:
        yield from refused_judges("judges", self.sources["judges"])
        for path in self._worth_files:
            try:
                read_worth(path)
            except WorthError as error:
                yield "judge_worth", str(error)
        try:
            self._verdicts()
        except RecordError as error:
            yield "human", str(error)

    def does(self, context: RunContext) -> str:
        trained = ", ".join(name for name in self.respond.policies if name != START)
        judges = self.sources["judges"]
        compare = "compares" if len(judges) == 1 else "compare"
        return f"{names_of(judges)} {compare} {trained} with the start"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        """Also the policies, whose KL to the start is computed from their weights, and the labels
        that they were trained on, whose receipts say who labeled."""
        policies = self.respond.policies
        human = self.options.human
        # A server is asked only when the stage runs: an earlier stage may wait for it to start.
        if not any(isinstance(source.judge, str) for source in self.sources["judges"]):
            self._require_worth(context)
        return {
            "labels": [Files((source.file,)) for source in label_sources(self.before)],
            "worth": Files(self._worth_files),
            "human": Files((Path(human).expanduser(),) if human else ()),
            "constitution": context.constitution(self.options.constitution).digest,
            "policies": {name: policy.identity() for name, policy in policies.items()},
            **self.respond.template_kwargs,
        }

    def run(self, context: RunContext) -> None:
        from rlaif.evaluation.human_verdicts import require_known
        from rlaif.evaluation.judges.whole import whole_evaluation

        self._require_worth(context)
        scorer = reward_model_of(self)
        runs = [self._policy_run(name, scorer) for name in self.respond.policies]
        verdicts = self._verdicts()
        require_known(verdicts, {run.name: run.samples for run in runs[1:]})
        result = whole_evaluation(
            runs,
            self._in_turn(context),
            labelers_of_stages(self.before),
            [worth for path in self._worth_files for worth in read_worth(path)],
            until=stop_rule(self.options.until, human=False, round_robin=False),
            human=verdicts,
            round_robin=self.options.round_robin,
        )
        self._save_gold(runs, result)
        result.save(self.outputs.paths[0])

    def _in_turn(self, context: RunContext) -> Iterator[Compare]:
        """Each judge, served only while it compares: two models may not fit into memory."""
        for source in self.sources["judges"]:
            constitution, judging = self.options.constitution, self.settings
            with context.compared_by(source.judge, self.folder, constitution, judging) as compare:
                yield compare

    def _save_gold(self, runs: Sequence[PolicyRun], result: EvaluationResult) -> None:
        """Beside the result what is truly better, where a judge is planted: by the first such."""
        from rlaif.evaluation.gold import GOLD_FILE, gold_evaluation

        found = planted_among(self.sources["judges"])
        if found is None:
            (self.folder / GOLD_FILE).unlink(missing_ok=True)  # of an earlier judge
            return
        place, truth = found
        samples = [(run.name, run.samples) for run in runs]
        gold = gold_evaluation(truth.name, samples, result.judges[place], truth.gold.score)
        gold.save(self.folder / GOLD_FILE)

    def _verdicts(self) -> list[HumanVerdict]:
        """Those of people. Raises RecordError, also for one on a policy that is not evaluated."""
        if not self.options.human:
            return []
        verdicts = read_jsonl(Path(self.options.human).expanduser(), HumanVerdict)
        if not verdicts:
            raise RecordError(f"{self.options.human}: no records in it; give at least one")
        names = [name for name in self.respond.policies if name != START]
        for verdict in verdicts:
            if verdict.policy not in names:
                raise RecordError(
                    f"{self.options.human}: unknown policy {verdict.policy!r}; expected one of "
                    f"{', '.join(names)}"
                )
        return verdicts

    # ── what is known of the judges ──────────────────────────────────────────────────────────

    @property
    def _worth_files(self) -> tuple[Path, ...]:
        return tuple(Path(name).expanduser() for name in self.options.judge_worth)

    def _require_worth(self, context: RunContext) -> None:
        """Raises WorthError for a file of figures that none of the judges has a use for."""
        if self._worth_files:
            judges = [self._evaluator(source.judge, context) for source in self.sources["judges"]]
            for path in self._worth_files:
                require_taking_part(path, read_worth(path), judges)

    def _evaluator(self, judge: ModelSpec | str, context: RunContext) -> EvaluatorModel:
        """What the evaluation will record of a judge; a running server is asked."""
        from rlaif.feedback.labeler import identify
        from rlaif.feedback.labelers import evaluator_of

        constitution = context.constitution(self.options.constitution)
        if isinstance(judge, ModelSpec):
            return evaluator_of(judge.model, constitution)
        log = self.folder / "judge.log"
        with context.judge_client(judge, self.options.constitution, log) as client:
            return identify(client.server_info(), constitution).evaluator

    @property
    def before(self) -> list[Stage]:
        """All stages that this one depends on."""
        return stages_before(self)

    @property
    def outputs(self) -> Files:
        return Files((self.folder / "evaluation.json",))

    @property
    def respond(self) -> RespondStage:
        """The stage in which the policies answered."""
        stage = self.source("responses").stage
        assert isinstance(stage, RespondStage)
        return stage

    def _policy_run(self, name: str, scorer: RewardModel | None) -> PolicyRun:
        from rlaif.evaluation.policies import PolicyRun
        from rlaif.generation.offline import tokens_per_second

        path = self.respond.responses(name)
        samples = read_jsonl(path, Sample)
        rewards = reward_scores(scorer, samples) if scorer else None
        is_sampler = isinstance(self.respond.policies[name].stage, SamplerStage)
        kl = None if name == START or is_sampler else self._kl(name, samples)
        asked = name in self.respond.asked_facts
        facts = read_jsonl(self.respond.facts(name), Sample) if asked else []
        return PolicyRun(name, samples, rewards, kl, tokens_per_second(path), facts)

    def _kl(self, name: str, samples: Sequence[Sample]) -> KL:
        """KL to the start, whatever the policy began from."""
        return kl_to_start(self.respond.policies[name], self.respond.policies[START], samples)

    # ── what a person sees ───────────────────────────────────────────────────────────────────

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.evaluation.gold import GOLD_FILE, GoldEvaluation
        from rlaif.evaluation.policies import EvaluationResult
        from rlaif.report.beyond_win_rates import print_evaluation
        from rlaif.report.sections.gold import policy_sentences

        print_evaluation(EvaluationResult.load(self.outputs.paths[0]), console)
        console.print(self._sizes(context), highlight=False, soft_wrap=True)
        if (gold := self.folder / GOLD_FILE).is_file():
            for sentence in policy_sentences(GoldEvaluation.load(gold)):
                console.print(sentence, highlight=False, soft_wrap=True)

    def _sizes(self, context: RunContext) -> str:
        """How many labels and prompts the table is based on."""
        heldout = len(context.prompts(self.respond.options.prompts))
        labels = sum(_judged(stage) for stage in self.before if isinstance(stage, LabelStage))
        few = ": too few to tell policies apart" if heldout < FEW_PROMPTS else ""
        trained = f"trained on {labels} labels, " if labels else ""
        return f"{trained}judged on {heldout} held-out prompts{few}"


def _judged(stage: LabelStage) -> int:
    from rlaif.feedback.labeler import SUMMARY

    summary = json.loads((stage.folder / SUMMARY).read_text(encoding="utf-8"))
    return int(summary["judged"])
