"""Evaluation of trained policies against their starting policy, with 95 % intervals.

win rates, judge score   of comparing with the start (comparison.py)
reward score       mean score of the reward model; reward gain: minus the start's, by prompt
overoptimized      the reward gain's interval is above 0 and the judge score's is not above ½:
                   the policy exploits errors of the reward model (arXiv:2210.10760), or there are
                   too few responses for the judge to show a difference
KL k1, k3          Σ_t d_t and Σ_t (e^(-d_t) - 1 + d_t), d = logπ - logπ_ref, on its own samples
distinct-n, self-BLEU   diversity of its responses (diversity.py)
judges             a column of win rates for each judge, and their agreement (judges/)
rules              what needs no judge: lengths, cut-offs, refusals, next steps (rules/)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median

from pydantic import TypeAdapter

from constitution.schema import Message
from rlaif.data.records import Sample, write_json
from rlaif.evaluation.anytime import StopRule
from rlaif.evaluation.comparison import (
    Compare,
    EvaluationError,
    EvaluatorModel,
    JudgedPair,
    Question,
    ResponseComparison,
    compare_until,
    compare_with_start,
    judge_score,
    length_controlled,
    trait_win_rates,
    win_rate,
)
from rlaif.evaluation.diversity import distinct_n, self_bleu
from rlaif.evaluation.human_verdicts import HumanWinRate
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.evaluation.judges.agreement import JudgeAgreement, agreements
from rlaif.evaluation.judges.column import JudgeColumn, Labelers, column_of, with_judge_facts
from rlaif.evaluation.judges.worth import JudgeWorth
from rlaif.evaluation.round_robin.strengths import StrengthTable
from rlaif.evaluation.rules.measures import RuleResult, measure_by_rules, measure_facts
from rlaif.evaluation.rules.refusals import HARMFUL, refuses

# ── texts ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Lengths in tokens, eos included; complete: share of responses that ended by themselves."""

    mean: float
    median: float
    longest: int
    complete: float


def length_stats(samples: Sequence[Sample]) -> LengthStats:
    """Lengths of all responses together, not by prompt. Raises StatisticsError without samples."""
    tokens = [sample.tokens for sample in samples]
    complete = fmean(sample.complete for sample in samples)
    return LengthStats(fmean(tokens), median(tokens), max(tokens), complete)


def mean_self_bleu(samples: Sequence[Sample]) -> Estimate | None:
    """Mean self-BLEU with Student's t interval over prompts, treating the references as fixed."""
    scores = self_bleu([sample.response for sample in samples])
    pairs = zip(samples, scores, strict=True)
    values = by_prompt((s.prompt.id, score) for s, score in pairs if score is not None)
    return mean_estimate(values, 0.0, 1.0) if values else None


def refusal_rate(samples: Sequence[Sample]) -> Estimate | None:
    """Share of responses that refuse, Wilson's interval over prompts; None without samples."""
    values = by_prompt((s.prompt.id, float(refuses(s.response))) for s in samples)
    return share_estimate(values) if values else None


# ── KL to the reference ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KL:
    """KL(policy ‖ reference) per response, nats; both estimators are unbiased, k3 never below 0."""

    k1: Estimate
    k3: Estimate


TokenLogprobs = Callable[[Sequence[Sample]], Sequence[Sequence[float]]]
"""log π(token) of every response token, nats, for each sample."""


def estimate_kl(samples: Sequence[Sample], policy: TokenLogprobs, reference: TokenLogprobs) -> KL:
    """KL on the policy's own samples (temperature 1, no top-k or top-p), summed per response.

    k1 and k3: Schulman, "Approximating KL divergence" (2020).
    """
    k1: list[tuple[str, float]] = []
    k3: list[tuple[str, float]] = []
    for sample, own, other in zip(samples, policy(samples), reference(samples), strict=True):
        gaps = [a - b for a, b in zip(own, other, strict=True)]
        k1.append((sample.prompt.id, math.fsum(gaps)))
        k3.append((sample.prompt.id, math.fsum(math.expm1(-gap) + gap for gap in gaps)))
    return KL(mean_estimate(by_prompt(k1)), mean_estimate(by_prompt(k3)))


# ── the evaluation ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """A policy's samples on the held-out prompts, and measurements of them made elsewhere."""

    name: str
    samples: Sequence[Sample]
    scores: Sequence[float | None] | None = None  # reward model's, per sample; None: empty response
    kl: KL | None = None
    tokens_per_second: float | None = None  # response tokens per second of sampling
    facts: Sequence[Sample] = ()  # answers to the questions of rules/facts.py, which nobody judges


@dataclass(frozen=True, slots=True)
class KindResult:
    """A policy's results on the prompts of one kind (everyday, harmful, …)."""

    kind: str
    prompts: int
    win_rate: Estimate | None
    judge_score: Estimate | None
    refusal_rate: Estimate | None
    mean_tokens: float


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """All measurements of one policy; None: not measured."""

    name: str
    win_rate: Estimate | None  # None for the start (½ by definition), or when nothing was judged
    judge_score: Estimate | None
    reward_score: Estimate | None
    kl: KL | None
    length: LengthStats
    distinct_1: float | None
    distinct_2: float | None
    tokens_per_second: float | None
    unjudged: dict[str, int]  # reason → comparisons without a label, excluded from all rates
    verdicts: tuple[ResponseComparison, ...]
    length_controlled: Estimate | None = None
    traits: dict[str, Estimate] = field(default_factory=dict)  # trait → win rate
    reward_gain: Estimate | None = None
    self_bleu: Estimate | None = None
    refusals_safe: Estimate | None = None  # on prompts with a kind other than harmful
    refusals_harmful: Estimate | None = None
    kinds: tuple[KindResult, ...] = ()  # sorted by name; prompts without a kind are in none
    rules: tuple[RuleResult, ...] = ()

    @property
    def overoptimized(self) -> bool:
        """Whether the reward gain is significant while the judge's preference is not."""
        gain, judged = self.reward_gain, self.judge_score
        if gain is None or gain.low is None or judged is None or judged.low is None:
            return False
        return gain.low > 0 and judged.low <= 0.5


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The start first, then the trained policies; prompts: the conversations by prompt id.

    evaluators: the models that judged; judges: what each of them says, of which the policies' own
    rates are the first one's. Both are empty in files written before they were recorded. agreement:
    of every two judges. until: the rule that judging stopped by, as it was given. strengths: of a
    round robin. human: win rates by people, by policy. The latter two are by the first judge.
    """

    policies: tuple[PolicyResult, ...]
    prompts: dict[str, tuple[Message, ...]]
    evaluators: tuple[EvaluatorModel, ...] = ()
    judges: tuple[JudgeColumn, ...] = ()
    agreement: tuple[JudgeAgreement, ...] = ()
    until: str = ""
    strengths: StrengthTable | None = None
    human: dict[str, HumanWinRate] = field(default_factory=dict)

    def with_judge_facts(self, labelers: Labelers, worth: Sequence[JudgeWorth]) -> EvaluationResult:
        """This result, with whether each judge labeled and what it is worth on gold."""
        return replace(self, judges=with_judge_facts(self.judges, labelers, worth))

    def save(self, path: Path) -> None:
        """Write the result as JSON."""
        write_json(path, _RESULT.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> EvaluationResult:
        """Read a saved result. Raises OSError or ValueError."""
        return _RESULT.validate_json(path.read_bytes())


_RESULT = TypeAdapter(EvaluationResult)


def evaluate(
    start: PolicyRun,
    trained: Sequence[PolicyRun],
    compare: Compare,
    *,
    until: StopRule | None = None,
) -> EvaluationResult:
    """Compare every trained policy with the start, on the start's prompts, by one judge.

    until: judge each policy's prompts in random order until its win rate meets this rule.
    Raises EvaluationError if there are no samples, or as `compare_with_start` does.
    """
    return evaluate_by(start, trained, [compare], until=until)


def evaluate_by(
    start: PolicyRun,
    trained: Sequence[PolicyRun],
    judges: Iterable[Compare],
    *,
    until: StopRule | None = None,
) -> EvaluationResult:
    """The same by each of several judges in turn; the policies' own rates are the first one's.

    judges: taken one after another, so that a generator may hold one model in memory at a time.
    until: each judge stops by this rule for itself. Raises as `evaluate`, and EvaluationError where
    a judge changes while it judges.
    """
    if not start.samples:
        raise EvaluationError("no held-out responses to evaluate; sample some prompts first")
    responses = {(s.prompt.id, s.index): s.response for s in start.samples}
    columns: list[JudgeColumn] = []
    judged: dict[str, list[ResponseComparison]] = {}
    for compare in judges:
        evaluator, comparisons = _judged_by(compare, start, trained, until)
        columns.append(column_of(evaluator, comparisons, responses))
        judged = judged or comparisons
    if not columns:
        raise EvaluationError("no judge to evaluate by; name one")
    own = [ResponseComparison(s.prompt.id, s.index, s.response, None) for s in start.samples]
    return EvaluationResult(
        (
            _result(start, start, own, {}),
            *(
                _result(run, start, own, Counter(c.reason for c in own if c.prob is None))
                for run in trained
                for own in [judged[run.name]]
            ),
        ),
        {s.prompt.id: s.prompt.messages for s in start.samples},
        tuple(column.evaluator for column in columns if column.evaluator),
        tuple(columns),
        agreements(columns),
        until="" if until is None else str(until),
    )


def _judged_by(
    compare: Compare, start: PolicyRun, trained: Sequence[PolicyRun], until: StopRule | None
) -> tuple[EvaluatorModel | None, dict[str, list[ResponseComparison]]]:
    """(the model that judged, every policy's comparisons with the start) by one judge."""
    evaluators: set[EvaluatorModel] = set()

    def noting_who_judged(questions: Sequence[Question]) -> Mapping[str, JudgedPair]:
        answers = compare(questions)
        evaluators.update(a.evaluator for a in answers.values() if a.evaluator)
        return answers

    comparisons = {run.name: _compared(run, start, noting_who_judged, until) for run in trained}
    if len(evaluators) > 1:
        names = ", ".join(sorted(evaluator.name for evaluator in evaluators))
        raise EvaluationError(
            f"the judge changed while it judged ({names}); evaluate again with one of them"
        )
    return next(iter(evaluators), None), comparisons


def _compared(
    run: PolicyRun, start: PolicyRun, compare: Compare, until: StopRule | None
) -> list[ResponseComparison]:
    if until is None:
        return compare_with_start(run.samples, start.samples, compare, run.name)
    return compare_until(run.samples, start.samples, compare, run.name, until)


def _result(
    run: PolicyRun,
    start: PolicyRun,
    comparisons: list[ResponseComparison],
    unjudged: Mapping[str, int],
) -> PolicyResult:
    texts = [sample.response for sample in run.samples]
    scores = _mean_scores(run)
    return PolicyResult(
        name=run.name,
        win_rate=win_rate(comparisons),
        judge_score=judge_score(comparisons),
        reward_score=mean_estimate(list(scores.values())) if scores else None,
        kl=run.kl,
        length=length_stats(run.samples),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        tokens_per_second=run.tokens_per_second,
        unjudged=dict(unjudged),
        verdicts=tuple(comparisons),
        length_controlled=length_controlled(comparisons),
        traits=trait_win_rates(comparisons),
        reward_gain=None if run is start else _reward_gain(scores, _mean_scores(start)),
        self_bleu=mean_self_bleu(run.samples),
        refusals_safe=refusal_rate([s for s in run.samples if s.prompt.kind not in ("", HARMFUL)]),
        refusals_harmful=refusal_rate([s for s in run.samples if s.prompt.kind == HARMFUL]),
        kinds=_kind_results(run.samples, comparisons),
        rules=(
            *measure_by_rules(run.samples, None if run is start else start.samples),
            *measure_facts(run.facts, None if run is start else start.facts),
        ),
    )


def _mean_scores(run: PolicyRun) -> dict[str, float]:
    """Prompt id → mean reward-model score of its scored responses."""
    pairs = zip(run.samples, run.scores or [None] * len(run.samples), strict=True)
    groups: dict[str, list[float]] = {}
    for sample, score in pairs:
        if score is not None:
            groups.setdefault(sample.prompt.id, []).append(score)
    return {prompt: fmean(scores) for prompt, scores in groups.items()}


def _reward_gain(scores: Mapping[str, float], start: Mapping[str, float]) -> Estimate | None:
    """Mean of the differences by prompt, over prompts with both scores: prompts vary widely."""
    differences = [scores[prompt] - start[prompt] for prompt in scores if prompt in start]
    return mean_estimate(differences) if differences else None


def _kind_results(
    samples: Sequence[Sample], comparisons: Sequence[ResponseComparison]
) -> tuple[KindResult, ...]:
    results = []
    for kind in sorted({sample.prompt.kind for sample in samples} - {""}):
        own = [sample for sample in samples if sample.prompt.kind == kind]
        prompts = {sample.prompt.id for sample in own}
        judged = [comparison for comparison in comparisons if comparison.prompt in prompts]
        results.append(
            KindResult(
                kind=kind,
                prompts=len(prompts),
                win_rate=win_rate(judged),
                judge_score=judge_score(judged),
                refusal_rate=refusal_rate(own),
                mean_tokens=fmean(sample.tokens for sample in own),
            )
        )
    return tuple(results)
