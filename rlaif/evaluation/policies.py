"""What a policy is worth beside where it started, with intervals. Nothing here judges by itself.

win rate           (wins + ½ ties) / judged, against the starting policy on held-out prompts
length-controlled  the win rate read at equal length (length_control.py)
judge score        mean P(policy's response better than the start's): the soft win rate
trait win rate     the win rate by one trait's probability alone; equal texts are ties
reward score       mean of the reward model's score; reward gain: less the start's, prompt by prompt
overoptimized      the reward gain is clear of 0 and the judge score is not clear of ½: the policy
                   has found what the reward model gets wrong (arXiv:2210.10760), or the judge
                   cannot tell so few responses apart
KL k1, k3          Σ_t d_t and Σ_t (e^(-d_t) - 1 + d_t), d = logπ - logπ_ref, on its own samples
distinct-n, self-BLEU   whether it says the same everywhere (diversity.py)
refusal rate       share of responses that refuse (refusals.py): on harmful prompts, and on the
                   others, where a refusal is one too many
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from pydantic import TypeAdapter

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.data.records import Sample, write_json
from rlaif.evaluation.diversity import distinct_n, self_bleu
from rlaif.evaluation.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.evaluation.length_control import Duel, length_controlled_win_rate
from rlaif.evaluation.refusals import HARMFUL, refuses


class EvaluationError(UserError):
    """Something asked to be measured that cannot be: what, and what to do."""


# ── comparing with the start ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """What the judge found for one comparison: P(A better), or None and the reason.

    `traits` holds P(A better) by each trait that the judge looked at.
    """

    prob_a: float | None
    reason: str = ""
    traits: Mapping[str, float] = field(default_factory=dict)


Question = tuple[str, tuple[Message, ...], str, str]  # id, conversation, response A, response B
Compare = Callable[[Sequence[Question]], Mapping[str, JudgedPair]]


@dataclass(frozen=True, slots=True)
class ResponseComparison:
    """One response of a policy beside the start's to the same prompt.

    `prob` is P(the policy's is better than the start's), None where the judge gave no label; the
    same by trait. Equal responses are ½ without asking: both orders of the same text cancel out.
    """

    prompt: str  # prompt id
    index: int
    response: str
    prob: float | None
    reason: str = ""
    gap: int = 0  # length of the response less that of the start's, characters
    traits: dict[str, float] = field(default_factory=dict)


def win_rate(verdicts: Sequence[ResponseComparison]) -> Estimate | None:
    """(wins + ½ ties) / judged, Wilson's interval over prompts; None when nothing was judged."""
    values = by_prompt((v.prompt, _point(v.prob)) for v in verdicts if v.prob is not None)
    return share_estimate(values) if values else None


def _point(prob: float) -> float:
    return 0.5 if prob == 0.5 else float(prob > 0.5)


def length_controlled(verdicts: Sequence[ResponseComparison]) -> Estimate | None:
    """The win rate read at equal length; see length_control.py for the model and its interval."""
    return length_controlled_win_rate(
        [Duel(v.prompt, _point(v.prob), v.gap) for v in verdicts if v.prob is not None]
    )


def trait_win_rates(verdicts: Sequence[ResponseComparison]) -> dict[str, Estimate]:
    """The win rate by each trait alone; equal texts are ties by every trait."""
    names = sorted({trait for verdict in verdicts for trait in verdict.traits})
    return {
        trait: share_estimate(
            by_prompt((v.prompt, _point(v.traits[trait])) for v in verdicts if trait in v.traits)
        )
        for trait in names
    }


def judge_score(verdicts: Sequence[ResponseComparison]) -> Estimate | None:
    """Mean P(better than the start) with Student's t interval over prompts."""
    values = by_prompt((v.prompt, v.prob) for v in verdicts if v.prob is not None)
    return mean_estimate(values, 0.0, 1.0) if values else None


def compare_with_start(
    policy: Sequence[Sample], start: Sequence[Sample], compare: Compare, name: str = "policy"
) -> list[ResponseComparison]:
    """Judge every response of the policy against the start's of the same prompt and index.

    Which stands as A is decided by a hash of the texts. Raises EvaluationError when a response has
    no counterpart, or an answer is missing.
    """
    opposite = {(sample.prompt.id, sample.index): sample.response for sample in start}
    questions: list[Question] = []
    policy_is_a: dict[str, bool] = {}
    for sample in policy:
        where = (sample.prompt.id, sample.index)
        if where not in opposite:
            raise EvaluationError(
                f"{name}: the start has no response {sample.index} to prompt {sample.prompt.id!r}; "
                "sample both policies on the same prompts, equally many responses each"
            )
        if sample.response != opposite[where]:
            id = f"{name}/{sample.prompt.id}/{sample.index}"
            pair = (sample.response, opposite[where])
            policy_is_a[id] = hashlib.sha256("\0".join(pair).encode()).digest()[0] % 2 == 0
            questions.append(
                (id, sample.prompt.messages, *(pair if policy_is_a[id] else pair[::-1]))
            )
    outcomes = compare(questions) if questions else {}

    seen = sorted({trait for outcome in outcomes.values() for trait in outcome.traits})
    verdicts = []
    for sample in policy:
        id = f"{name}/{sample.prompt.id}/{sample.index}"
        if id not in policy_is_a:
            outcome = JudgedPair(0.5, traits=dict.fromkeys(seen, 0.5))
        elif id in outcomes:
            outcome = outcomes[id]
        else:
            raise EvaluationError(f"the judge did not answer comparison {id!r}; evaluate again")
        other = opposite[sample.prompt.id, sample.index]
        verdicts.append(_verdict(sample, other, outcome, policy_is_a.get(id, True)))
    return verdicts


def _verdict(
    sample: Sample, other: str, outcome: JudgedPair, policy_is_a: bool
) -> ResponseComparison:
    """The outcome seen from the policy's side."""

    def turned(prob: float) -> float:
        return prob if policy_is_a else 1.0 - prob

    return ResponseComparison(
        sample.prompt.id,
        sample.index,
        sample.response,
        None if outcome.prob_a is None else turned(outcome.prob_a),
        outcome.reason,
        len(sample.response) - len(other),
        {trait: turned(prob) for trait, prob in outcome.traits.items()},
    )


# ── texts ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Lengths in tokens, end token included; `complete` is the share that ended by itself."""

    mean: float
    median: float
    longest: int
    complete: float


def length_stats(samples: Sequence[Sample]) -> LengthStats:
    tokens = [sample.tokens for sample in samples]
    complete = fmean(sample.complete for sample in samples)
    return LengthStats(fmean(tokens), median(tokens), max(tokens), complete)


def mean_self_bleu(samples: Sequence[Sample]) -> Estimate | None:
    """Mean self-BLEU with Student's t interval over prompts, the other responses taken as given."""
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
    """KL on the policy's own samples (temperature 1, nothing cut off), summed over each response.

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
    """A policy on the held-out prompts: its samples, and what was measured of them elsewhere."""

    name: str
    samples: Sequence[Sample]
    rewards: Sequence[float | None] | None = None  # reward model's score, per sample; None: empty
    kl: KL | None = None
    tokens_per_second: float | None = None  # response tokens over the time of sampling


@dataclass(frozen=True, slots=True)
class KindResult:
    """A policy on the prompts of one kind (everyday, harmful, …)."""

    kind: str
    prompts: int
    win_rate: Estimate | None
    judge_score: Estimate | None
    refusal_rate: Estimate | None
    mean_tokens: float


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """Everything measured of one policy. None: nothing to measure it by."""

    name: str
    win_rate: Estimate | None  # None for the start (½ by definition), or when nothing was judged
    judge_score: Estimate | None
    reward_score: Estimate | None
    kl: KL | None
    length: LengthStats
    distinct_1: float | None
    distinct_2: float | None
    tokens_per_second: float | None
    unjudged: dict[str, int]  # reason → comparisons without a label; in no rate
    verdicts: tuple[ResponseComparison, ...]
    length_controlled: Estimate | None = None
    traits: dict[str, Estimate] = field(default_factory=dict)  # trait → win rate
    reward_gain: Estimate | None = None
    self_bleu: Estimate | None = None
    refusals_safe: Estimate | None = None  # on prompts of a named kind that is not harmful
    refusals_harmful: Estimate | None = None
    kinds: tuple[KindResult, ...] = ()  # in the order of their names; prompts without one in none

    @property
    def overoptimized(self) -> bool:
        """Reward and judge part: the reward is up for certain, the judge's preference is not."""
        gain, judged = self.reward_gain, self.judge_score
        if gain is None or gain.low is None or judged is None or judged.low is None:
            return False
        return gain.low > 0 and judged.low <= 0.5


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The start first, then the trained policies; `prompts` are the conversations by prompt id."""

    policies: tuple[PolicyResult, ...]
    prompts: dict[str, tuple[Message, ...]]

    def save(self, path: Path) -> None:
        write_json(path, _RESULT.dump_python(self, mode="json"))

    @classmethod
    def load(cls, path: Path) -> EvaluationResult:
        return _RESULT.validate_json(path.read_bytes())


_RESULT = TypeAdapter(EvaluationResult)


def evaluate(start: PolicyRun, trained: Sequence[PolicyRun], compare: Compare) -> EvaluationResult:
    """Every trained policy against the start, on the start's prompts."""
    if not start.samples:
        raise EvaluationError("no held-out responses to evaluate; sample some prompts first")
    verdicts = [ResponseComparison(s.prompt.id, s.index, s.response, None) for s in start.samples]
    results = [_result(start, start, verdicts, {})]
    for run in trained:
        verdicts = compare_with_start(run.samples, start.samples, compare, run.name)
        unjudged = Counter(v.reason for v in verdicts if v.prob is None)
        results.append(_result(run, start, verdicts, unjudged))
    return EvaluationResult(tuple(results), {s.prompt.id: s.prompt.messages for s in start.samples})


def _result(
    run: PolicyRun,
    start: PolicyRun,
    verdicts: list[ResponseComparison],
    unjudged: Mapping[str, int],
) -> PolicyResult:
    texts = [sample.response for sample in run.samples]
    rewards = _rewards(run)
    return PolicyResult(
        name=run.name,
        win_rate=win_rate(verdicts),
        judge_score=judge_score(verdicts),
        reward_score=mean_estimate(list(rewards.values())) if rewards else None,
        kl=run.kl,
        length=length_stats(run.samples),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        tokens_per_second=run.tokens_per_second,
        unjudged=dict(unjudged),
        verdicts=tuple(verdicts),
        length_controlled=length_controlled(verdicts),
        traits=trait_win_rates(verdicts),
        reward_gain=None if run is start else _gain(rewards, _rewards(start)),
        self_bleu=mean_self_bleu(run.samples),
        refusals_safe=refusal_rate([s for s in run.samples if s.prompt.kind not in ("", HARMFUL)]),
        refusals_harmful=refusal_rate([s for s in run.samples if s.prompt.kind == HARMFUL]),
        kinds=_kinds(run.samples, verdicts),
    )


def _rewards(run: PolicyRun) -> dict[str, float]:
    """Prompt id → mean reward score of its scored responses."""
    scored = zip(run.samples, run.rewards or [None] * len(run.samples), strict=True)
    groups: dict[str, list[float]] = {}
    for sample, score in scored:
        if score is not None:
            groups.setdefault(sample.prompt.id, []).append(score)
    return {prompt: fmean(scores) for prompt, scores in groups.items()}


def _gain(rewards: Mapping[str, float], start: Mapping[str, float]) -> Estimate | None:
    """Mean difference on the prompts that both have a score for; paired, as prompts differ."""
    both = [rewards[prompt] - start[prompt] for prompt in rewards if prompt in start]
    return mean_estimate(both) if both else None


def _kinds(
    samples: Sequence[Sample], verdicts: Sequence[ResponseComparison]
) -> tuple[KindResult, ...]:
    found = []
    for kind in sorted({sample.prompt.kind for sample in samples} - {""}):
        own = [sample for sample in samples if sample.prompt.kind == kind]
        prompts = {sample.prompt.id for sample in own}
        judged = [verdict for verdict in verdicts if verdict.prompt in prompts]
        found.append(
            KindResult(
                kind=kind,
                prompts=len(prompts),
                win_rate=win_rate(judged),
                judge_score=judge_score(judged),
                refusal_rate=refusal_rate(own),
                mean_tokens=fmean(sample.tokens for sample in own),
            )
        )
    return tuple(found)
