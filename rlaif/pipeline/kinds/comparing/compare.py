"""compare: training methods over several seeds, against the start and head to head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlaif.data.records import Sample, read_jsonl
from rlaif.pipeline.context import ANSWERS, RunContext, run_facts
from rlaif.pipeline.kinds.comparing.best_of_n import BestOfNStage, kl_bound
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.kinds.label import LabelStage
from rlaif.pipeline.kinds.respond import START, RespondStage
from rlaif.pipeline.options import StageOptions
from rlaif.pipeline.stage import ArtifactType, Files, Source, Stage, is_model, one

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif.comparing.head_to_head import Points
    from rlaif.comparing.result import ArmResult, HeadToHead, MethodComparison
    from rlaif.evaluation.policies import EvaluationResult
    from rlaif.evaluation.round_robin.strengths import StrengthTable

RESULT = "comparison.json"
PAGE = "comparison.html"


class CompareOptions(StageOptions):
    """Which policies are seeds of one method, and what is said about them."""

    arms: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="method → the policies that are its seeds, by their stages"
    )
    left_out: dict[str, str] = Field(
        default_factory=dict, description="policy → why it is missing; shown beside the results"
    )
    budget: dict[str, float] = Field(
        default_factory=dict, description="what was allowed: reads, tokens, seconds; shown"
    )


class CompareStage(Stage):
    """Compares methods over their seeds: win rates against the start by every judge, those that
    matter head to head by the first one, what the responses are like, and what each took."""

    kind = "compare"
    takes = {"evaluation": one(ArtifactType.EVALUATION, "of all the policies against the start")}
    gives = ArtifactType.REPORT
    options_class = CompareOptions
    keeps_its_own = True  # the journal has every answer by its content
    is_result = True

    def refused(self) -> Iterator[tuple[str, str]]:
        known = [name for name in self._respond.policies if name != START]
        named = [policy for own in self.options.arms.values() for policy in own]
        for policy in named:
            if policy not in known:
                yield "arms", f"unknown policy {policy!r}; the evaluation has {', '.join(known)}"
            elif named.count(policy) > 1:
                yield "arms", f"{policy} is named twice; remove one"
                return

    def does(self, context: RunContext) -> str:
        judge = self._evaluate.sources["judges"][0].title
        return f"{judge} compares {', '.join(self.options.arms)} with each other"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        """Also the policies, which predict a plain text, their responses, and what they and the
        judge's reads took."""
        from rlaif.feedback.labeler import SUMMARY

        evaluate = self._evaluate
        taken = [stage.folder / "metrics.jsonl" for stage in evaluate.before]
        taken += [stage.folder / SUMMARY for stage in evaluate.before if stage.kind == "label"]
        taken.append(evaluate.folder / ANSWERS)
        return {
            "facts": run_facts(context),
            "responses": self._respond.outputs,
            "judging": evaluate.settings,
            "judge": evaluate.sources["judges"][0].identity(),
            "constitution": context.constitution(evaluate.options.constitution).digest,
            "policies": {name: p.identity() for name, p in self._respond.policies.items()},
            "taken": Files(tuple(file for file in taken if file.is_file())),
        }

    def run(self, context: RunContext) -> None:
        from rlaif.comparing.last_line import last_line
        from rlaif.comparing.page import write_page

        found = self._compared(context)
        found = replace(found, last_line=last_line(found))
        found.save(self.outputs.paths[0])
        write_page(found, self._page)

    def _compared(self, context: RunContext) -> MethodComparison:
        """Everything but the last line."""
        from rlaif.comparing.result import MethodComparison
        from rlaif.evaluation.policies import EvaluationResult
        from rlaif.pipeline.kinds.comparing.measure import reads_in, summary_of
        from rlaif.report.judged_by import judged_by

        # 1. Each arm by itself.
        result = EvaluationResult.load(self.source("evaluation").file)
        responses = {
            name: read_jsonl(self._respond.responses(name), Sample)
            for name in self._respond.policies
        }
        arms = self._arms(result, responses)

        # 2. Those that matter, head to head.
        met, strengths = self._head_to_head(context, arms, result, responses)

        # 3. What all of it took.
        stages = [stage for stage in self._evaluate.before if isinstance(stage, LabelStage)]
        labels = [summary_of(stage) for stage in stages]
        journals = [stage.folder / ANSWERS for stage in (self._evaluate, self)]
        return MethodComparison(
            facts=run_facts(context),
            arms=arms,
            head_to_head=met,
            prompts=len(result.prompts),
            seeds=min(len(policies) for policies in self.options.arms.values()),
            strengths=strengths,
            budget=self.options.budget,
            left_out=self.options.left_out,
            labels=sum(each["judged"] for each in labels) if labels else None,
            over_budget=sum(each.get("over_budget", 0) for each in labels),
            label_reads=sum(each["reads"] for each in labels) if labels else None,
            evaluation_reads=sum(map(reads_in, journals)),
            judged_by=tuple(judged_by(replace(result, policies=()))),
            planted=any(judge.is_planted for judge in result.judges),
        )

    # ── the arms ─────────────────────────────────────────────────────────────────────────────

    def _arms(
        self, result: EvaluationResult, responses: dict[str, list[Sample]]
    ) -> tuple[ArmResult, ...]:
        from rlaif.evaluation.gold import GOLD_FILE, GoldEvaluation
        from rlaif.pipeline.kinds.comparing.measure import arm_result, training

        gold_file = self._evaluate.folder / GOLD_FILE
        gold = GoldEvaluation.load(gold_file) if gold_file.is_file() else None
        text = self._text_nll()
        arms = [arm_result(START, (START,), result, responses, text, gold)]
        for name, policies in self.options.arms.items():
            stages = [self._stage(policy) for policy in policies]
            trainings = tuple(done for stage in stages if (done := training(stage)))
            arm = arm_result(name, policies, result, responses, text, gold)
            arm = replace(arm, trainings=trainings, reward_seconds=_reward_seconds(stages[0]))
            if isinstance(stages[0], BestOfNStage):
                n = stages[0].settings.n
                arm = replace(arm, kl_most=kl_bound(n), answers_drawn=n)
            arms.append(arm)
        return tuple(arms)

    def _text_nll(self) -> dict[str, list[float]]:
        """Nats a token of the plain text by policy; an answer that is picked has its model's."""
        from rlaif.comparing.text_nll import by_paragraph, text_nll
        from rlaif.progress import progress

        found: dict[str, list[float]] = {}
        with progress("plain text", len(self._respond.policies), "policies") as report:
            for done, (name, policy) in enumerate(self._respond.policies.items()):
                report(done)
                if isinstance(policy.stage, BestOfNStage):
                    continue
                found[name] = by_paragraph(text_nll(*_weights(policy)))
        return found

    # ── head to head ─────────────────────────────────────────────────────────────────────────

    def _head_to_head(
        self,
        context: RunContext,
        arms: Sequence[ArmResult],
        result: EvaluationResult,
        responses: dict[str, list[Sample]],
    ) -> tuple[tuple[HeadToHead, ...], StrengthTable | None]:
        """The arms that matter against each other, seed by seed, by the evaluation's first judge;
        and the strengths of all policies from every comparison."""
        from rlaif.comparing.head_to_head import arms_that_matter, head_to_head, points
        from rlaif.evaluation.comparison import compare_with_start
        from rlaif.evaluation.round_robin.bradley_terry import bradley_terry
        from rlaif.evaluation.round_robin.strengths import SoftWin

        titles = {p: f"{arm.name}@{self._seed(p)}" for arm in arms[1:] for p in arm.policies}
        wins = [
            SoftWin(each.prompt, titles[policy.name], START, each.prob)
            for policy in result.policies[1:]
            for each in policy.verdicts
            if each.prob is not None and policy.name in titles
        ]
        met: dict[tuple[str, str], list[Points]] = {}
        pairs = arms_that_matter(arms[1:])
        if pairs:
            evaluate = self._evaluate
            judge, constitution = evaluate.sources["judges"][0].judge, evaluate.options.constitution
            with context.compared_by(
                judge, self.folder, constitution, evaluate.settings
            ) as compare:
                for first, second in pairs:
                    for one, other in self._by_seed(first, second):
                        compared = compare_with_start(
                            responses[one], responses[other], compare, f"{one} and {other}"
                        )
                        met.setdefault((first, second), []).append(points(compared))
                        wins += [
                            SoftWin(each.prompt, titles[one], titles[other], each.prob)
                            for each in compared
                            if each.prob is not None
                        ]
        names = [START, *titles.values()]
        return head_to_head(met), bradley_terry(names, wins) if wins else None

    def _by_seed(self, first: str, second: str) -> list[tuple[str, str]]:
        """The policies of two arms in pairs: of the same seed, or in order where none is shared."""
        one, other = ({self._seed(p): p for p in self.options.arms[arm]} for arm in (first, second))
        shared = [(one[seed], other[seed]) for seed in one if seed in other]
        return shared or list(zip(one.values(), other.values(), strict=False))

    def _seed(self, policy: str) -> int:
        return int(getattr(self._stage(policy).settings, "seed", 0))

    # ── the stages that it is about ──────────────────────────────────────────────────────────

    @property
    def _evaluate(self) -> EvaluateStage:
        stage = self.source("evaluation").stage
        assert isinstance(stage, EvaluateStage)
        return stage

    @property
    def _respond(self) -> RespondStage:
        return self._evaluate.respond

    def _stage(self, policy: str) -> Stage:
        stage = self._respond.policies[policy].stage
        assert stage is not None
        return stage

    @property
    def outputs(self) -> Files:
        return Files((self.folder / RESULT, self._page))

    @property
    def outputs_elsewhere(self) -> tuple[Path, ...]:
        return (self._page,)

    @property
    def _page(self) -> Path:
        return self.folder.parent / PAGE

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.comparing.result import MethodComparison
        from rlaif.comparing.tables import print_comparison

        print_comparison(MethodComparison.load(self.outputs.paths[0]), console)
        console.print(f"page: {self._page}", highlight=False, soft_wrap=True)


def _weights(policy: Source) -> tuple[str, Path | None]:
    """(model, adapter over it) of a policy."""
    trained = policy.stage
    if trained is None or is_model(trained.folder):
        return policy.model, None
    assert trained.base is not None
    return trained.base.model, trained.folder


def _reward_seconds(stage: Stage) -> float:
    """The time that the reward models took which a training, or a sampler, takes."""
    from rlaif.pipeline.kinds.comparing.measure import seconds_of

    rewards = [source.stage for source in stage.sources.get("reward", ())]
    return sum(seconds_of(reward) for reward in rewards if reward is not None)
