"""The win rate by human verdicts on some pairs, made sharper by a judge's on all of them: PPI++.

    θ     = mean_n(Y - λ·f) + λ·mean_N(f)                                    arXiv:2311.01453
    λ     = cov_n(Y, f) / ((1 + n/N)·var_{n+N}(f)), clipped to [0, 1]        power tuning there
    var   = λ²·var_N(f)/N + var_n(Y - λ·f)/n

    Y     people's outcome on a prompt: 1 win, ½ tie, 0 loss against the start
    f     the judge's outcome on the same prompt
    n, N  prompts with verdicts of people, and without

The judge may be biased in any way: the correction removes it, and λ says how much the judge is
worth (0: nothing, the interval is that of the n human verdicts alone). What must hold is that the n
prompts are a random choice among the n + N. Prompts, not pairs, are the unit: outcomes are averaged
within a prompt first, on the pairs that people saw.

The interval is wider than the paper's in two ways, because n is small here: Student's t with n - 1
degrees of freedom in place of the normal distribution; and var_n(Y - λ·f) counts two more prompts,
on which people and judge contradict each other, once each way (Y, f = 0, 1 and 1, 0), as Agresti
and Coull (1998) do for a share. Where the judge errs seldom, n prompts may hold no error at all,
and the plain variance is then near 0: at n = 20 the plain interval covered the truth in 74 to 91 %
of simulated runs, this one in 95 % or more (docs/log.md). With λ = 0 it is Wilson's over the n
human verdicts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from rlaif.data.records import HumanVerdict, RecordError, Sample
from rlaif.evaluation.comparison import ResponseComparison, win_point
from rlaif.evaluation.intervals import Estimate, by_prompt, share_estimate, student_t

_POINTS = {"better": 1.0, "tie": 0.5, "worse": 0.0}


@dataclass(frozen=True, slots=True)
class HumanWinRate:
    """A policy's win rate against the start by people.

    corrected: PPI++; n counts the prompts with human verdicts. human: by people alone, Wilson's.
    judge_weight: λ. judge_only: N. agreement: share of the pairs with verdicts of both on which
    judge and people (their majority) have the same outcome; None without such pairs.
    """

    corrected: Estimate
    human: Estimate
    judge_weight: float
    judge_only: int
    agreement: float | None


def prediction_powered_mean(
    human: Sequence[float], judge: Sequence[float], judge_only: Sequence[float]
) -> tuple[Estimate, float]:
    """(PPI++ estimate of the mean of `human`, λ).

    human, judge (n,): Y and f of the prompts with human verdicts, one value in [0, 1] per prompt;
    judge_only (N,): f of the others, may be empty. Raises ValueError if n is 0.
    """
    if not human:
        raise ValueError("at least one human verdict is needed")
    n, others = len(human), len(judge_only)
    weight = _tuned_weight(human, judge, judge_only)
    rectified = [y - weight * f for y, f in zip(human, judge, strict=True)]
    if n < 2 or weight == 0:
        return share_estimate(human), 0.0
    value = fmean(rectified) + weight * fmean(judge_only)
    contradictions = [-weight, 1.0]
    spread = variance(rectified + contradictions) / n
    spread += weight**2 * _variance(judge_only) / others
    half = student_t(n - 1) * math.sqrt(spread)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(min(1.0, max(0.0, value)), low, high, n), weight


def _tuned_weight(
    human: Sequence[float], judge: Sequence[float], judge_only: Sequence[float]
) -> float:
    """λ: 0 without other prompts, or if the judge's outcome is always the same."""
    spread = _variance([*judge, *judge_only])
    if not judge_only or spread == 0:
        return 0.0
    mean_y, mean_f = fmean(human), fmean(judge)
    covariance = fmean((y - mean_y) * (f - mean_f) for y, f in zip(human, judge, strict=True))
    return min(1.0, max(0.0, covariance / ((1 + len(human) / len(judge_only)) * spread)))


def _variance(values: Sequence[float]) -> float:
    return variance(values) if len(values) > 1 else 0.0


# ── verdicts on policies ─────────────────────────────────────────────────────────────────────


def require_known(
    verdicts: Iterable[HumanVerdict], policies: Mapping[str, Sequence[Sample]]
) -> None:
    """Raises RecordError for a verdict on what is not evaluated. policies: samples by name."""
    evaluated = {
        name: {(s.prompt.id, s.index): s.response for s in samples}
        for name, samples in policies.items()
    }
    for verdict in verdicts:
        where = f"human verdict on {verdict.policy!r}, prompt {verdict.prompt!r}"
        if verdict.policy not in evaluated:
            raise RecordError(f"{where}: unknown policy; expected {', '.join(evaluated)}")
        response = evaluated[verdict.policy].get((verdict.prompt, verdict.index))
        if response is None and verdict.prompt not in {
            prompt for prompt, _ in evaluated[verdict.policy]
        }:
            first = next(prompt for prompt, _ in evaluated[verdict.policy])
            raise RecordError(
                f"{where}: no prompt of its samples has this id (the first one's is {first!r}); "
                "give the id of the samples' prompt (docs/evaluation.md), or remove this verdict"
            )
        if response is None:
            raise RecordError(
                f"{where}: the policy has no response {verdict.index} to it; correct the index, or "
                "remove this verdict"
            )
        if verdict.response not in (None, response):
            raise RecordError(
                f"{where}: it is on another response than the evaluated one; remove this verdict, "
                "or evaluate the responses that people read"
            )


def human_win_rates(
    verdicts: Iterable[HumanVerdict], policies: Mapping[str, Sequence[ResponseComparison]]
) -> dict[str, HumanWinRate]:
    """The win rate by people of each policy with verdicts. policies: the judge's comparisons."""
    voted: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for verdict in verdicts:
        voted[verdict.policy][verdict.prompt, verdict.index].append(_POINTS[verdict.verdict])
    return {
        name: _human_win_rate(
            {pair: fmean(points) for pair, points in voted[name].items()}, comparisons
        )
        for name, comparisons in policies.items()
        if name in voted
    }


def _human_win_rate(
    voted: Mapping[tuple[str, int], float], comparisons: Iterable[ResponseComparison]
) -> HumanWinRate:
    judged = {(c.prompt, c.index): win_point(c.prob) for c in comparisons if c.prob is not None}
    both = [pair for pair in voted if pair in judged]
    seen = {prompt for prompt, _ in voted}
    others = [pair for pair in judged if pair[0] not in seen]

    alone = share_estimate(_averaged(voted, voted))
    judge_only = _averaged(others, judged)
    corrected, weight = (
        prediction_powered_mean(_averaged(both, voted), _averaged(both, judged), judge_only)
        if both
        else (alone, 0.0)
    )
    agree = [win_point(voted[pair]) == judged[pair] for pair in both]
    return HumanWinRate(corrected, alone, weight, len(judge_only), fmean(agree) if agree else None)


def _averaged(
    pairs: Iterable[tuple[str, int]], points: Mapping[tuple[str, int], float]
) -> list[float]:
    """The mean point of each prompt, in the order of its first pair."""
    return by_prompt((prompt, points[prompt, index]) for prompt, index in pairs)
