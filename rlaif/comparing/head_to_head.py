"""Win rates of methods over seeds, and which of them are compared with each other.

A method matters unless the start beats it: its win rate's whole interval is below ½. Where fewer
than two are left, the two with the highest win rates are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from rlaif.comparing.crossed import crossed_share
from rlaif.comparing.result import ArmResult, HeadToHead
from rlaif.data.records import Sample
from rlaif.evaluation.comparison import ResponseComparison, win_point
from rlaif.evaluation.intervals import Estimate

Points = Mapping[str, float]
"""Prompt id → mean of the points (1 win, ½ tie, 0 loss) of its responses that were judged."""


def arms_that_matter(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """The pairs of arms to compare with each other, the one with the higher win rate first."""
    rated = [(arm.win_rate.value, arm) for arm in arms if arm.win_rate is not None]
    ranked = [arm for _, arm in sorted(rated, key=lambda each: -each[0])]
    hopeful = [arm for arm in ranked if not _below_half(arm.win_rate)]
    if len(hopeful) < 2:
        hopeful = ranked[:2]
    return [(one.name, other.name) for one, other in combinations(hopeful, 2)]


def _below_half(rate: Estimate | None) -> bool:
    return rate is not None and rate.high is not None and rate.high < 0.5


def points(comparisons: Sequence[ResponseComparison]) -> dict[str, float]:
    """The points of one policy against another; comparisons without a label are left out."""
    groups: dict[str, list[float]] = {}
    for each in comparisons:
        if each.prob is not None:
            groups.setdefault(each.prompt, []).append(win_point(each.prob))
    return {prompt: fmean(own) for prompt, own in groups.items()}


def share_over(seeds: Sequence[Points], *, comparisons: int = 1) -> Estimate | None:
    """The mean over seeds and prompts, on the prompts that every seed has; None without any."""
    if not seeds:
        return None
    shared = [prompt for prompt in seeds[0] if all(prompt in own for own in seeds)]
    if not shared:
        return None
    return crossed_share([[own[p] for p in shared] for own in seeds], comparisons=comparisons)


def head_to_head(
    met: Mapping[tuple[str, str], Sequence[Points]],
) -> tuple[HeadToHead, ...]:
    """The results of pairs of arms, from the points of the first over the second by seed; their
    intervals hold together."""
    found = []
    for (first, second), seeds in met.items():
        rate = share_over(seeds, comparisons=len(met))
        if rate is not None:
            found.append(HeadToHead(first, second, rate, len(seeds)))
    return tuple(found)


def share_longer(samples: Sequence[Sample], start: Sequence[Sample]) -> dict[str, float]:
    """Prompt id → the share of responses longer than the start's of the same index, ties ½: what a
    judge that names the longer response would say."""
    lengths = {(s.prompt.id, s.index): len(s.response) for s in start}
    groups: dict[str, list[float]] = {}
    for sample in samples:
        gap = len(sample.response) - lengths[sample.prompt.id, sample.index]
        groups.setdefault(sample.prompt.id, []).append(0.5 if gap == 0 else float(gap > 0))
    return {prompt: fmean(own) for prompt, own in groups.items()}
