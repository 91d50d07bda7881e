"""What a policy is worth beside where it started, with intervals. Nothing here judges by itself.

win rate         (wins + ½ ties) / judged, against the starting policy on held-out prompts
judge score      mean P(policy's response better than the start's): the soft win rate
KL k1, k3        Σ_t d_t and Σ_t (e^(-d_t) - 1 + d_t), d = logπ - logπ_ref, on its own samples
distinct-n       different n-grams of words / all of them
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from constitution.errors import UserError
from constitution.schema import Message
from rlaif.intervals import Estimate, by_prompt, mean_estimate, share_estimate
from rlaif.records import Sample, write_json


class EvaluationError(UserError):
    """Something asked to be measured that cannot be: what, and what to do."""


# ── comparing with the start ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the judge found for one comparison: P(A better), or None and the reason."""

    prob_a: float | None
    reason: str = ""


Question = tuple[str, tuple[Message, ...], str, str]  # id, conversation, response A, response B
Compare = Callable[[Sequence[Question]], Mapping[str, Outcome]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One response of a policy beside the start's to the same prompt.

    `prob` is P(the policy's is better than the start's), None where the judge gave no label. Equal
    responses are ½ without asking: both orders of the same text cancel out.
    """

    prompt: str  # prompt id
    index: int
    response: str
    prob: float | None
    reason: str = ""


def win_rate(verdicts: Sequence[Verdict]) -> Estimate | None:
    """(wins + ½ ties) / judged, Wilson's interval over prompts; None when nothing was judged."""
    values = by_prompt((v.prompt, _point(v.prob)) for v in verdicts if v.prob is not None)
    return share_estimate(values) if values else None


def _point(prob: float) -> float:
    return 0.5 if prob == 0.5 else float(prob > 0.5)


def judge_score(verdicts: Sequence[Verdict]) -> Estimate | None:
    """Mean P(better than the start) with Student's t interval over prompts."""
    values = by_prompt((v.prompt, v.prob) for v in verdicts if v.prob is not None)
    return mean_estimate(values, 0.0, 1.0) if values else None


def compare_with_start(
    policy: Sequence[Sample], start: Sequence[Sample], compare: Compare, name: str = "policy"
) -> list[Verdict]:
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

    verdicts = []
    for sample in policy:
        id = f"{name}/{sample.prompt.id}/{sample.index}"
        if id not in policy_is_a:
            outcome = Outcome(0.5)
        elif id in outcomes:
            outcome = outcomes[id]
        else:
            raise EvaluationError(f"the judge did not answer comparison {id!r}; evaluate again")
        prob = outcome.prob_a
        if prob is not None and not policy_is_a.get(id, True):
            prob = 1.0 - prob
        verdicts.append(
            Verdict(sample.prompt.id, sample.index, sample.response, prob, outcome.reason)
        )
    return verdicts


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


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams (Li et al., arXiv:1510.03055); None without any.

    It falls when a policy says the same everywhere. Compare only sets of about equal size.
    """
    total = 0
    seen: set[tuple[str, ...]] = set()
    for text in texts:
        words = text.casefold().split()
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else None


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
class PolicyResult:
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
    verdicts: tuple[Verdict, ...]


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
    verdicts = [Verdict(s.prompt.id, s.index, s.response, None) for s in start.samples]
    results = [_result(start, verdicts, {})]
    for run in trained:
        verdicts = compare_with_start(run.samples, start.samples, compare, run.name)
        results.append(
            _result(run, verdicts, Counter(v.reason for v in verdicts if v.prob is None))
        )
    return EvaluationResult(tuple(results), {s.prompt.id: s.prompt.messages for s in start.samples})


def _result(run: PolicyRun, verdicts: list[Verdict], unjudged: Mapping[str, int]) -> PolicyResult:
    texts = [sample.response for sample in run.samples]
    rewards = None
    if run.rewards is not None:
        scored = zip(run.samples, run.rewards, strict=True)
        rewards = mean_estimate(
            by_prompt((s.prompt.id, score) for s, score in scored if score is not None)
        )
    return PolicyResult(
        name=run.name,
        win_rate=win_rate(verdicts),
        judge_score=judge_score(verdicts),
        reward_score=rewards,
        kl=run.kl,
        length=length_stats(run.samples),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        tokens_per_second=run.tokens_per_second,
        unjudged=dict(unjudged),
        verdicts=tuple(verdicts),
    )


def print_table(result: EvaluationResult, console: Console) -> None:
    """start, DPO, PPO: one row each."""
    table = Table(title="Against the start, on held-out prompts (95 % intervals)")
    table.add_column("policy")
    for heading in TABLE_HEADINGS:
        table.add_column(heading, justify="right")
    for policy in result.policies:
        table.add_row(policy.name, *table_cells(policy))
    console.print(table)


TABLE_HEADINGS = (
    "win rate",
    "reward score",
    "judge score",
    "KL k1 (nats)",
    "length (tokens)",
    "tokens/s",
    "unjudged",
)


def table_cells(policy: PolicyResult) -> list[str]:
    """The row under TABLE_HEADINGS; — where there is nothing to say."""
    judged = policy.win_rate or policy.unjudged
    return [
        _shown(policy.win_rate, lambda x: f"{100 * x:.0f}", " %"),
        _shown(policy.reward_score, lambda x: f"{x:+.2f}"),
        _shown(policy.judge_score, lambda x: f"{x:.2f}"),
        "—" if policy.kl is None else f"{policy.kl.k1.value:.2f}",
        f"{policy.length.mean:.0f}",
        "—" if policy.tokens_per_second is None else f"{policy.tokens_per_second:.0f}",
        str(sum(policy.unjudged.values())) if judged else "—",
    ]


def _shown(estimate: Estimate | None, number: Callable[[float], str], unit: str = "") -> str:
    if estimate is None:
        return "—"
    text = number(estimate.value) + unit
    if estimate.low is not None and estimate.high is not None:
        text += f" [{number(estimate.low)}, {number(estimate.high)}]"
    return text
