"""The test that a candidate for the judge must pass before it is adopted. Pure.

    gold pairs ─ prompts, seeded ─► choose rows (to fit candidates on) | test rows (never fitted on)
    d_i      gain on test prompt i: metric of the candidate - metric of the judge now, mean over its
             pairs that both have judged
    adopt    the candidate of the highest mean gain among those whose interval is above 0

    accuracy   [q > ½], a tie counts ½             q: P(chosen is better)
    log loss   log q                               its gain is the fall of the NLL, in nats

The interval is Student's t over prompts at level 1 - ALPHA/m for m candidates (Bonferroni),
with two prompts added whose gains are ±max|d|/√2: the pair of pseudo-observations of Agresti and
Min (2005) for a difference of paired proportions. Without them, four prompts that all happen to
favor a candidate of no merit would suffice: one time in sixteen.

Accuracy is the default where a candidate can change a verdict; a curve cannot, and is tried by log
loss. By log loss, a candidate may win by its confidence alone, with the same verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from judge_service.judge.calibration_metrics import clipped, right
from rlaif.evaluation.intervals import Estimate, by_prompt, student_t
from rlaif.feedback.pairs import digest

ALPHA = 0.05
FEWEST_PROMPTS = 20
"""Test prompts, below which no candidate is adopted: the interval of a gain is wider than ±20
points."""


class Metric(StrEnum):
    """What a candidate must improve."""

    ACCURACY = "accuracy"
    LOG_LOSS = "log_loss"


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged gold pair: its id, its prompt's digest, and q = P(chosen is better)."""

    id: str
    prompt: str
    q: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate on the test rows, beside the current judge."""

    name: str
    metric: Metric
    base: float  # the metric's mean over prompts, of the current judge; log loss as NLL
    candidate: float  # the same of the candidate
    gain: Estimate  # simultaneous over all candidates; n counts prompts
    pairs: int  # that both have judged
    unjudged: int  # test pairs that one of the two has no judgment of

    @property
    def passed(self) -> bool:
        """Whether the interval of the gain is above 0, on enough prompts."""
        return self.gain.low is not None and self.gain.low > 0 and self.gain.n >= FEWEST_PROMPTS


def held_back_prompts(prompts: Iterable[str], seed: int, share: float = 0.5) -> frozenset[str]:
    """The prompts to test on: a seeded `share` of the distinct ones; the others are to fit on."""
    ordered = sorted(set(prompts), key=lambda prompt: digest([seed, prompt]))
    return frozenset(ordered[: round(share * len(ordered))])


def paired_gain(
    gains: Sequence[float], candidates: int = 1, *, largest: float | None = None
) -> Estimate:
    """The mean gain with its interval, as in the module docstring. gains: one per prompt.

    largest: the most that a gain may be, by default the largest found; with 1 for shares, prompts
    of which none changed still have an interval of some width.

    >>> paired_gain([0.0] * 40 + [1.0] * 4).low > 0
    False
    """
    mean, n = fmean(gains), len(gains)
    if n < 2:
        return Estimate(mean, None, None, n)
    extra = (max(map(abs, gains)) if largest is None else largest) / math.sqrt(2)
    padded = [*gains, extra, -extra]
    quantile = student_t(n - 1, 1 - ALPHA / (2 * candidates))
    half = quantile * stdev(padded) / math.sqrt(len(padded))
    center = fmean(padded)
    return Estimate(mean, center - half, center + half, n)


def trial(
    name: str,
    base: Sequence[Judged],
    candidate: Sequence[Judged],
    metric: Metric,
    *,
    tested: int,
    candidates: int,
) -> Trial:
    """Compare a candidate with the judge on the test pairs that both have judged.

    tested: number of test pairs. candidates: number of them that share the error rate.
    """
    value = {Metric.ACCURACY: right, Metric.LOG_LOSS: _log}[metric]
    other = {judged.id: judged.q for judged in candidate}
    both = [(judged, other[judged.id]) for judged in base if judged.id in other]
    if not both:
        empty = Estimate(0.0, None, None, 0)
        return Trial(name, metric, math.nan, math.nan, empty, 0, tested)
    gains = by_prompt((j.prompt, value(q) - value(j.q)) for j, q in both)
    sign = 1.0 if metric is Metric.ACCURACY else -1.0
    return Trial(
        name=name,
        metric=metric,
        base=sign * fmean(by_prompt((j.prompt, value(j.q)) for j, _ in both)),
        candidate=sign * fmean(by_prompt((j.prompt, value(q)) for j, q in both)),
        gain=paired_gain(gains, candidates),
        pairs=len(both),
        unjudged=tested - len(both),
    )


def _log(q: float) -> float:
    return math.log(clipped(q))


def adopted(trials: Sequence[Trial]) -> Trial | None:
    """The passed candidate of the highest gain; None if none passed.

    Gains by different metrics cannot be compared: accuracy, which changes verdicts, goes first.
    """
    passed = [each for each in trials if each.passed]
    by_accuracy = [each for each in passed if each.metric is Metric.ACCURACY]
    return max(by_accuracy or passed, key=lambda each: each.gain.value, default=None)
