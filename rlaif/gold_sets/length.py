"""How far answers follow the length of the responses.

For each (right, wrong) pair: g the log-odds of the right response, x = ln(its length / the length
of the wrong one), in characters. Every question weighs 1, intervals are clustered by prompt.

    longer chosen    share of pairs of unequal length whose longer response is preferred; ties ½
    longer right     share of them whose longer response is the right one
    slope            b of g = a + b·x by least squares: log-odds for a response e times as long. a
                     is what the answers know at equal length; without it, knowledge that happens to
                     go with length would count as a preference for length
    r                Σ g x / √(Σ g² Σ x²), the correlation of both, whichever response comes first

Sources: the regression of a preference on the log ratio of lengths with other evidence held fixed
follows length-controlled AlpacaEval (arXiv:2404.04475, Eq. 1), which has tanh of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlaif.evaluation.clustered import clustered_line, clustered_share
from rlaif.evaluation.intervals import Estimate
from rlaif.gold_sets.answers import GoldAnswer

LONGEST_LOGIT = 20.0  # log-odds beyond this are certain, and would decide the slope alone


@dataclass(frozen=True, slots=True)
class LengthBias:
    """The module's figures; None where no pair differs in length, or nothing varies."""

    longer_chosen: Estimate | None
    longer_right: Estimate | None
    slope: Estimate | None
    intercept: float | None
    correlation: float | None


def length_bias(answers: Sequence[GoldAnswer]) -> LengthBias:
    """The figures of answers to questions; at least one answer."""
    gaps, ratios, prompts, weights = [], [], [], []
    for answer in answers:
        lengths = [max(len(text), 1) for text in answer.question.responses]
        pairs = answer.question.pairs
        for (right, wrong), gap in zip(pairs, answer.gaps, strict=True):
            gaps.append(max(-LONGEST_LOGIT, min(LONGEST_LOGIT, gap)))
            ratios.append(math.log(lengths[right] / lengths[wrong]))
            prompts.append(answer.question.prompt_id)
            weights.append(1 / len(pairs))
    unequal = [i for i, ratio in enumerate(ratios) if ratio]
    line = clustered_line(ratios, gaps, prompts, weights)
    squares = math.fsum(g * g for g in gaps) * math.fsum(x * x for x in ratios)
    products = math.fsum(g * x for g, x in zip(gaps, ratios, strict=True))

    def share(values: Sequence[float]) -> Estimate | None:
        if not unequal:
            return None
        return clustered_share(values, [prompts[i] for i in unequal], [weights[i] for i in unequal])

    return LengthBias(
        longer_chosen=share([_point(gaps[i] * ratios[i]) for i in unequal]),
        longer_right=share([float(ratios[i] > 0) for i in unequal]),
        slope=line.slope if line else None,
        intercept=line.intercept if line else None,
        correlation=products / math.sqrt(squares) if squares else None,
    )


def _point(product: float) -> float:
    return 0.5 if product == 0 else float(product > 0)
