"""Alarms: training failures that the loss does not show. Pure functions of the metrics.

    name                      active when, of the steps that logged the metric
    kl_over_ceiling           mean kl_k1 of the last WINDOW > KL_CEILING
    eos_rate_falling          mean eos_rate of the last WINDOW < that of the first - EOS_FALL
    length_grows_with_score   response_length of the last WINDOW > LENGTH_GROWTH · that of the first
                              and r(response_length, score) over the last TREND > LENGTH_CORRELATION
    diversity_falling         distinct_2 of the last WINDOW < DIVERSITY_LEFT · that of the first
    nothing_trained           masked of the last step > 0 and its eos_rate 0: truncated=mask left
                              every response out of the loss
    scores_parting            the last judge_score was below its best beyond chance (rollback is 1,
                              ppo/guards.py), while score is above what it was at that best
    text_forgotten            the last text_nll_rise > TEXT_NLL_RISE (plain_text/score.py)

A history is a list of metrics, oldest first, one per step; absent metrics and None are skipped.
A threshold without a source is our choice, far outside the noise of small batches. An alarm does
not stop training: it names the problem and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

WINDOW = 5  # steps of a mean: one batch alone is noise
TREND = 20  # steps of a correlation
# nats per response. In arXiv:2210.10760 overoptimization lowers the true score within tens of nats;
# at 25 the reference would sample such a response once in e^25 times.
KL_CEILING = 25.0
EOS_FALL = 0.2  # share of responses
LENGTH_GROWTH = 1.25  # times the length at the start
LENGTH_CORRELATION = 0.5  # much of RLHF's gain in score is due to length: arXiv:2310.03716
DIVERSITY_LEFT = 0.7  # of distinct_2 at the start; RLHF costs diversity: arXiv:2310.06452
TEXT_NLL_RISE = 0.02  # of the start's; the same text every time, so that no noise raises it

WATCHED = (
    "kl_k1", "eos_rate", "response_length", "score", "distinct_2", "judge_score", "rollback",
    "masked", "text_nll", "text_nll_rise",
)  # fmt: skip

History = Sequence[Mapping[str, Any]]
Metrics = TypeVar("Metrics", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Alarm:
    """An active alarm, shown in metrics.jsonl by name and on stderr by text."""

    name: str
    text: str  # the problem, and the remedy


def active_alarms(history: History) -> list[Alarm]:
    """All alarms that are active after the last step of the history."""
    every = (
        kl_over_ceiling,
        eos_rate_falling,
        length_grows_with_score,
        diversity_falling,
        nothing_trained,
        scores_parting,
        text_forgotten,
    )
    return [alarm for check in every if (alarm := check(history)) is not None]


def shortened(history: Sequence[Metrics]) -> list[Metrics]:
    """The steps of a history that alarms still need: whatever is added, the same ones ring.

    At most 2 · WINDOW steps of each watched metric, TREND of the correlation and one best judge
    score are left, so that a long run does not walk through its past at every step.
    """
    needed = {len(history) - 1} if history else set[int]()
    for name in WATCHED:
        logged = [step for step, metrics in enumerate(history) if metrics.get(name) is not None]
        needed.update(logged[:WINDOW], logged[-WINDOW:])
    needed.update(_with(history, "response_length", "score")[-TREND:])
    needed.update(_with(history, "text_nll", "text_nll_rise")[-1:])
    if judged := _with(history, "judge_score", "score"):
        needed.add(max(judged, key=lambda step: history[step]["judge_score"]))
    return [history[step] for step in sorted(needed)]


def kl_over_ceiling(history: History) -> Alarm | None:
    """Alarm when kl_k1 exceeds KL_CEILING: the policy left the range of reliable scores."""
    values = _values(history, "kl_k1")
    if len(values) < WINDOW or not fmean(values[-WINDOW:]) > KL_CEILING:
        return None
    return Alarm(
        "kl_over_ceiling",
        f"kl_k1 is {fmean(values[-WINDOW:]):.1f} nats per response (ceiling {KL_CEILING:g}): the "
        "policy is so far from the reference that its score is not reliable; raise kl_coef, or "
        "lower learning_rate",
    )


def eos_rate_falling(history: History) -> Alarm | None:
    """Alarm when eos_rate falls by EOS_FALL: more and more responses are truncated."""
    ends = _ends(history, "eos_rate")
    if ends is None or not ends[1] < ends[0] - EOS_FALL:
        return None
    return Alarm(
        "eos_rate_falling",
        f"only {ends[1]:.0%} of the responses have an end token, {ends[0]:.0%} had at the start: "
        "truncated responses are scored; raise missing_eos_penalty or max_new_tokens",
    )


def length_grows_with_score(history: History) -> Alarm | None:
    """Alarm when responses grow and score correlates with length: length may be rewarded."""
    ends = _ends(history, "response_length")
    recent = _with(history, "response_length", "score")[-TREND:]
    both = [(history[step]["response_length"], history[step]["score"]) for step in recent]
    if ends is None or len(both) < TREND or not ends[1] > LENGTH_GROWTH * ends[0]:
        return None
    correlation = _correlation(both)
    if not correlation > LENGTH_CORRELATION:
        return None
    return Alarm(
        "length_grows_with_score",
        f"responses grew from {ends[0]:.0f} to {ends[1]:.0f} tokens and their score with them "
        f"(r = {correlation:.2f}): the score may reward length; compare length-controlled win "
        "rates, and check the reward model's correlation with length",
    )


def diversity_falling(history: History) -> Alarm | None:
    """Alarm when distinct_2 falls below DIVERSITY_LEFT of its start: a sign of mode collapse."""
    ends = _ends(history, "distinct_2")
    if ends is None or not ends[1] < DIVERSITY_LEFT * ends[0]:
        return None
    return Alarm(
        "diversity_falling",
        f"distinct_2 fell from {ends[0]:.2f} to {ends[1]:.2f}: responses become alike (mode "
        "collapse); raise kl_coef, lower learning_rate, or use an earlier checkpoint",
    )


def nothing_trained(history: History) -> Alarm | None:
    """Alarm when truncated=mask left out every response of the last step. One step is enough: it
    had no loss, and cannot be noise."""
    masked, ends = (history[-1].get(name) for name in ("masked", "eos_rate")) if history else (0, 0)
    if not masked or ends:
        return None
    return Alarm(
        "nothing_trained",
        f"all {masked:.0f} responses were cut off, and truncated=mask leaves them out of the loss: "
        "this step trained nothing; raise max_new_tokens, or set truncated=penalty",
    )


def scores_parting(history: History) -> Alarm | None:
    """Alarm when judge_score falls while score rises: reward-model overoptimization."""
    judged = [
        (history[step]["judge_score"], history[step]["score"], history[step].get("rollback"))
        for step in _with(history, "judge_score", "score")
    ]
    if len(judged) < 2 or not judged[-1][2]:
        return None
    judge, score, _ = judged[-1]
    best, score_at_best, _ = max(judged[:-1], key=lambda each: each[0])
    if not score > score_at_best:
        return None
    return Alarm(
        "scores_parting",
        f"the score rose from {score_at_best:.2f} to {score:.2f} while the judge's fell from "
        f"{best:.2f} to {judge:.2f}, beyond chance: the reward model is overoptimized "
        "(arXiv:2210.10760); raise kl_coef, or train the reward model on responses of this policy",
    )


def text_forgotten(history: History) -> Alarm | None:
    """Alarm when the loss on held-out plain text is TEXT_NLL_RISE above the start's."""
    scored = _with(history, "text_nll", "text_nll_rise")
    if not scored or not history[scored[-1]]["text_nll_rise"] > TEXT_NLL_RISE:
        return None
    nll, rise = history[scored[-1]]["text_nll"], history[scored[-1]]["text_nll_rise"]
    return Alarm(
        "text_forgotten",
        f"held-out plain text costs {nll:.3f} nats per token, "
        f"{rise:.1%} above the start's (alarm at {TEXT_NLL_RISE:.0%}): the policy forgets "
        "ordinary language; mix in plain text (SFT), lower learning_rate, train fewer steps, or "
        "raise kl_coef (PPO) or beta (DPO)",
    )


def _values(history: History, name: str) -> list[float]:
    return [h[name] for h in history if h.get(name) is not None]


def _with(history: History, one: str, other: str) -> list[int]:
    """The places of the steps that logged both metrics."""
    return [
        step
        for step, metrics in enumerate(history)
        if metrics.get(one) is not None and metrics.get(other) is not None
    ]


def _ends(history: History, name: str) -> tuple[float, float] | None:
    """The means of the first and of the last WINDOW steps; None while the two overlap."""
    values = _values(history, name)
    if len(values) < 2 * WINDOW:
        return None
    return fmean(values[:WINDOW]), fmean(values[-WINDOW:])


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's r; 0 where one of the two does not vary."""
    mx, my = fmean(x for x, _ in pairs), fmean(y for _, y in pairs)
    cross = sum((x - mx) * (y - my) for x, y in pairs)
    spread = sum((x - mx) ** 2 for x, _ in pairs) * sum((y - my) ** 2 for _, y in pairs)
    return cross / math.sqrt(spread) if spread > 0 else 0.0
