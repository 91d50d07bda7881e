"""evaluate_round: a round's policy against the start and the round before; it may end the rounds.

No pair is read twice: the answers of the judges about earlier rounds are taken over, and equal
responses are ties that nobody is asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlaif.data.journal import Journal
from rlaif.data.prompt_split import HELD_OUT
from rlaif.data.records import Sample, read_jsonl
from rlaif.evaluation.rounds.result import ROUND_FILE, RoundResult, decide, wins_by_score
from rlaif.pipeline.context import ANSWERS, RunContext
from rlaif.pipeline.kinds.evaluating import (
    kl_to_start,
    label_sources,
    labelers_of_stages,
    planted_among,
    reward_model_of,
    reward_scores,
    stages_before,
)
from rlaif.pipeline.kinds.respond import START
from rlaif.pipeline.options import ConstitutionOptions, JudgingConfig
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

    from rlaif.evaluation.comparison import Compare, JudgedPair, Question
    from rlaif.evaluation.policies import EvaluationResult, PolicyRun

EVALUATION_FILE = "evaluation.json"


class RoundOptions(ConstitutionOptions):
    """Which round it is, and when rounds end."""

    number: int = Field(default=1, ge=1, description="of the round, from 1")
    win_rate_over: float | None = Field(
        default=0.5,
        description="what the interval against the round before must exceed; null: rounds never "
        "end early",
    )
    patience: int = Field(default=1, ge=1, description="rounds without a gain that end the rounds")


class EvaluateRoundStage(Stage):
    """Judges a round's policy against the start by every judge, and against the round before by the
    first one, which decides whether a further round is needed."""

    kind = "evaluate_round"
    takes = {
        "policy": one(ArtifactType.POLICY, "the policy of the round"),
        "start": one(ArtifactType.MODEL, "what the first round began from"),
        "answers": one(ArtifactType.SAMPLES, "of the policy to held-out prompts"),
        "start_answers": one(ArtifactType.SAMPLES, "of the start to the same prompts"),
        "last_answers": one(
            ArtifactType.SAMPLES, "of the round before; left out in the first", optional=True
        ),
        "before": one(
            ArtifactType.EVALUATION, "of the round before; left out in the first", optional=True
        ),
        "judges": evaluator_slot("what compares; the first decides", many=True, prefers="second"),
        "reward": one(ArtifactType.REWARD_MODEL, "scores the answers, too", optional=True),
    }
    gives = ArtifactType.EVALUATION
    settings_class = JudgingConfig
    options_class = RoundOptions
    keeps_its_own = True  # the journal has every answer by its content
    grows_with = HELD_OUT

    def refused(self) -> Iterator[tuple[str, str]]:
        yield from refused_judges("judges", self.sources["judges"])

    def does(self, context: RunContext) -> str:
        judges = self.sources["judges"]
        compare = "compares" if len(judges) == 1 else "compare"
        others = "the start" if "before" not in self.sources else "the start and the round before"
        return f"{names_of(judges)} {compare} {self.source('policy').title} with {others}"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        """Also the labels that the policy was trained on, whose receipts say who labeled."""
        labels = label_sources(stages_before(self))
        return {
            "labels": [Files((source.file,)) for source in labels],
            "constitution": context.constitution(self.options.constitution).digest,
        }

    def run(self, context: RunContext) -> None:
        from rlaif.evaluation.judges.whole import whole_evaluation
        from rlaif.evaluation.policies import PolicyRun

        before = self._before()
        self._take_over()
        # 1. What is measured without a judge.
        name, model = self.source("policy").text, reward_model_of(self)
        own, start = (read_jsonl(self.source(s).file, Sample) for s in ("answers", "start_answers"))
        rewards = (reward_scores(model, own), reward_scores(model, start)) if model else None
        kl = kl_to_start(self.source("policy"), self.source("start"), own)
        runs = [
            PolicyRun(START, start, rewards[1] if rewards else None),
            PolicyRun(name, own, rewards[0] if rewards else None, kl),
        ]
        # 2. Every judge against the start; the first one also against the round before.
        against_last: list[EvaluationResult] = []
        result = whole_evaluation(
            runs, self._in_turn(context, own, against_last), labelers_of_stages(stages_before(self))
        )
        result.save(self.folder / EVALUATION_FILE)
        self._save_gold(runs, result)
        # 3. What that means for the next round.
        self._result(result, against_last, rewards, own, start, before).save(
            self.folder / ROUND_FILE
        )

    def _in_turn(
        self, context: RunContext, own: Sequence[Sample], against_last: list[EvaluationResult]
    ) -> Iterator[Compare]:
        """Each judge, served only while it compares; the first one compares with the round before
        at once, and what comes out is put into `against_last`."""
        from rlaif.evaluation.policies import PolicyRun, evaluate

        for source in self.sources["judges"]:
            constitution, judging = self.options.constitution, self.settings
            with context.compared_by(source.judge, self.folder, constitution, judging) as compare:
                ordered = in_one_order(compare)
                if "last_answers" in self.sources and not against_last:
                    last = read_jsonl(self.source("last_answers").file, Sample)
                    policy = PolicyRun(self.source("policy").text, own)
                    against_last.append(evaluate(PolicyRun("last", last), [policy], ordered))
                yield ordered

    def _before(self) -> RoundResult | None:
        """The result of the round before; None for the first."""
        if "before" not in self.sources:
            return None
        return RoundResult.load(_folder_of(self, "before") / ROUND_FILE)

    def _take_over(self) -> None:
        """The judges' answers about earlier rounds, added to the journal of this one."""
        from rlaif.feedback.labeler import JournalEntry

        if "before" not in self.sources:
            return
        with Journal(self.folder / ANSWERS, JournalEntry) as journal:
            known = {entry.key for _, entry in journal.scan()}
            earlier = _folder_of(self, "before") / ANSWERS
            # There is none where all answers were equal, and no judge was asked.
            lines = earlier.read_text(encoding="utf-8").splitlines() if earlier.is_file() else []
            for line in lines:
                entry = JournalEntry.model_validate_json(line)
                if entry.key not in known:
                    journal.append(entry)

    def _save_gold(self, runs: Sequence[PolicyRun], result: EvaluationResult) -> None:
        from rlaif.evaluation.gold import GOLD_FILE, gold_evaluation

        found = planted_among(self.sources["judges"])
        if found is None:
            (self.folder / GOLD_FILE).unlink(missing_ok=True)  # of an earlier judge
            return
        place, truth = found
        samples = [(run.name, run.samples) for run in runs]
        gold = gold_evaluation(truth.name, samples, result.judges[place], truth.gold.score)
        gold.save(self.folder / GOLD_FILE)

    def _result(
        self,
        result: EvaluationResult,
        against_last: Sequence[EvaluationResult],
        rewards: tuple[Sequence[float | None], Sequence[float | None]] | None,
        own: Sequence[Sample],
        start: Sequence[Sample],
        before: RoundResult | None,
    ) -> RoundResult:
        from rlaif.evaluation.gold import gold_policy

        found, options = planted_among(self.sources["judges"]), self.options
        score = found[1].gold.score if found else None
        gold = gold_policy(START, own, start, score) if score else None
        policy = result.policies[1]
        rate = against_last[0].policies[1].win_rate if against_last else policy.win_rate
        decision = decide(
            options.number, rate, before, over=options.win_rate_over, patience=options.patience
        )
        return RoundResult(
            number=options.number,
            policy=policy.name,
            judges=tuple(column.name for column in result.judges),
            against_before=rate,
            against_start=tuple(column.policies[0].win_rate for column in result.judges),
            reward_gain=policy.reward_gain,
            kl=policy.kl,
            wins=wins_by_score(own, start, rewards, score),
            gold=gold.gold if gold else None,
            gold_gain=gold.gain if gold else None,
            mean_tokens=policy.length.mean,
            without_gain=decision.without_gain,
            kept=decision.kept,
            ended=decision.ended,
            refusals_safe=policy.refusals_safe,
            refusals_harmful=policy.refusals_harmful,
        )

    def ends(self) -> str:
        """Why the rounds end with this one, once it is evaluated; "" if they go on."""
        file = self.folder / ROUND_FILE
        return RoundResult.load(file).ended if file.is_file() else ""

    @property
    def outputs(self) -> Files:
        """The evaluation, what it means, and the judges' answers, which later rounds take over."""
        return Files(tuple(self.folder / name for name in (EVALUATION_FILE, ROUND_FILE, ANSWERS)))

    def show(self, context: RunContext, console: Console) -> None:
        from rlaif.report.rounds import round_sentence

        result = RoundResult.load(self.folder / ROUND_FILE)
        console.print(round_sentence(result), highlight=False, soft_wrap=True)


def _folder_of(stage: Stage, slot: str) -> Path:
    before = stage.source(slot).stage
    assert before is not None
    return before.folder


def in_one_order(compare: Compare) -> Compare:
    """The same judge, asked about every two responses in the order of their texts: which of them
    is the policy's, and in which round, does not make another question of them."""
    from rlaif.evaluation.comparison import JudgedPair

    def turned(answer: JudgedPair) -> JudgedPair:
        prob = None if answer.prob_a is None else 1.0 - answer.prob_a
        traits = {trait: 1.0 - p for trait, p in answer.traits.items()}
        return JudgedPair(prob, answer.reason, traits, answer.evaluator)

    def ordered(questions: Sequence[Question]) -> Mapping[str, JudgedPair]:
        swapped = {id for id, _, a, b in questions if a > b}
        answers = compare(
            [(id, prompt, b, a) if id in swapped else (id, prompt, a, b)
             for id, prompt, a, b in questions]
        )  # fmt: skip
        return {id: turned(each) if id in swapped else each for id, each in answers.items()}

    return ordered
