"""Guards against a policy that drifts too far or gets worse: pure functions, no tensors.

    adaptive KL    kl_coef ← kl_coef·(1 + clip(kl/target - 1, ±0.2)·n/horizon)
                   kl nats per response (kl_k1), n responses; section 2.2, arXiv:1909.08593. For n
                   over the horizon, which the paper has not, (1 + clip(...))^(n/horizon): the
                   factor above would be 0 at n = 5 horizons, and reward KL beyond
    KL guard       k3 of KL(π_old, π) on an update's batch over kl_ceiling: the update is dropped,
                   and the iteration's remaining ones (update.py)
    max_kl         kl_k1 of a rollout over it: training ends with an error
    rollback       s_k,i  a judge's P(better than the start) at evaluation k, for held-out prompt i
                   d_i = s_best,i - s_k,i; the policy got worse where Student's t of d, paired by
                   prompt, is over its quantile at level error / (K (K - 1) / 2), of K evaluations.
                   Policy and optimizer go back to the best one's checkpoint; at a second time to
                   the same best, training ends

Why so strict a level: a policy that stands still is compared with the best of all earlier
evaluations, which is best by luck. Each of the K (K - 1) / 2 pairs of evaluations may be the one,
so each gets its part of `error`, and all together roll back a policy that did not get worse with at
most that probability (Bonferroni). "Below the best three times in a row", the usual patience, rolls
back most of such policies: tests/rlaif/algorithms/ppo/test_guard_simulation.py.
How many prompts find a fall of FALL, by the standard deviation of one prompt's s over evaluations
(`prompts_needed`, error 0.05); with fewer than the first column's, nothing is ever rolled back:

    evaluations    sd 0.06    sd 0.09
              5         23         47
             10         33         66
             20         41         85
             50         53        109

Why max_kl is an error and not an early end: a policy that far off has most likely found a hole in
the score (arXiv:2210.10760), and the next stage of a recipe must not take it for a finished one.
Why a second rollback to the same best is the end: training has left it for a worse policy twice.
An evaluation without a score (the judge gave None) is ignored, and so is a prompt without one.
After a rollback the iterations go on counting, and with them the learning rate's decay and the
seeds, so that the next iterations are not a repetition; kl_coef keeps its adapted value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from rlaif.evaluation.intervals import student_t
from rlaif.training.config import TrainingError

MAX_ERROR = 0.2  # relative errors are clipped to it (arXiv:1909.08593, section 2.2)
ROLLBACKS_TO_ONE_BEST = 2
FALL = 0.05  # of P(better than the start): what is worth going back for
LOW_SD = 0.06  # of one prompt's score over evaluations, where policy and judge are steady

Scores = Sequence[float | None]  # by held-out prompt; None: the judge gave none

Decision = Literal["go on", "new best", "roll back", "end"]


def adapt_kl_coef(kl_coef: float, kl: float, target: float, count: int, horizon: float) -> float:
    """Next kl_coef of the adaptive KL controller (arXiv:1909.08593, section 2.2).

    kl, target: nats per response, kl the mean over `count` responses; horizon: in responses. The
    result has the sign of kl_coef for any count.

    >>> round(adapt_kl_coef(0.05, kl=0.0, target=3.0, count=20, horizon=2.0), 6)  # 0.05 * 0.8**10
    0.005369
    """
    error = min(max(kl / target - 1, -MAX_ERROR), MAX_ERROR)
    horizons = count / horizon
    return kl_coef * ((1 + error) ** horizons if horizons > 1 else 1 + error * horizons)


def require_kl_within(kl: float, max_kl: float | None, where: str) -> None:
    """Raise TrainingError when a rollout's KL to the reference exceeds max_kl, nats per response.

    where: names the iteration in the message.
    """
    if max_kl is not None and kl > max_kl:
        raise TrainingError(
            f"{where}: the policy is {kl:.3g} nats per response from the reference, over "
            f"max_kl={max_kl:g}; the last checkpoint stays. Raise kl_coef, set kl_target, or lower "
            "learning_rate, and start in a new folder"
        )


@dataclass(frozen=True, slots=True)
class RollbackState:
    """What rollbacks depend on of the evaluations so far; saved in every checkpoint."""

    best: tuple[float | None, ...] = ()  # by prompt, of the evaluation with the highest mean
    rollbacks: int = 0  # rollbacks to it

    @property
    def ended(self) -> bool:
        """Whether training ends: it was rolled back to the same best evaluation twice."""
        return self.rollbacks >= ROLLBACKS_TO_ONE_BEST


class RollbackDecision(NamedTuple):
    """What to do after an evaluation, and the state from then on.

    fall: mean of the best evaluation less this one's, paired by prompt; None for the first.
    """

    state: RollbackState
    decision: Decision
    fall: float | None = None


def after_evaluation(
    state: RollbackState, scores: Scores, *, looks: int, error: float
) -> RollbackDecision:
    """Decide whether to continue after an evaluation, or to roll back to the best.

    scores: of the held-out prompts, always in the same order; None where the judge gave none.
    looks: evaluations of the whole run. error: probability that a run whose policy does not get
    worse is rolled back.

    >>> best = RollbackState(best=(0.6, 0.7) * 20)
    >>> after_evaluation(best, (0.5, 0.65) * 20, looks=10, error=0.05).decision
    'roll back'
    """
    if mean_score(scores) is None:
        return RollbackDecision(state, "go on")
    falls = [
        best - score
        for best, score in zip(state.best, scores, strict=False)
        if best is not None and score is not None
    ]
    if not falls or fmean(falls) < 0:
        return RollbackDecision(RollbackState(best=tuple(scores)), "new best", _mean(falls))
    if len(falls) < prompts_needed(looks, LOW_SD, error) or not _is_worse(falls, looks, error):
        return RollbackDecision(state, "go on", fmean(falls))
    back = RollbackState(state.best, state.rollbacks + 1)
    return RollbackDecision(back, "end" if back.ended else "roll back", fmean(falls))


def mean_score(scores: Scores) -> float | None:
    """The mean over the prompts that have a score; None where there is none."""
    return _mean([score for score in scores if score is not None])


def prompts_needed(looks: int, sd: float, error: float) -> int:
    """Held-out prompts with which a fall of FALL is found at one evaluation of two, and within
    three of them nearly always.

    sd: standard deviation of one prompt's score over evaluations of the same policy.
    """
    level = _level(looks, error)
    spread = math.sqrt(2) * sd  # of the difference of two scores
    prompts = 4
    while student_t(prompts - 1, 1 - level) * spread > FALL * math.sqrt(prompts):
        prompts += 1
    return prompts


def _is_worse(falls: Sequence[float], looks: int, error: float) -> bool:
    """Whether the mean fall is over 0 by more than chance explains."""
    threshold = student_t(len(falls) - 1, 1 - _level(looks, error))
    return fmean(falls) * math.sqrt(len(falls)) > threshold * stdev(falls)


def _level(looks: int, error: float) -> float:
    return error / max(1, looks * (looks - 1) // 2)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
