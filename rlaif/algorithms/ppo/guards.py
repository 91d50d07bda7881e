"""Guards against a policy that drifts too far or gets worse: pure functions, no tensors.

    adaptive KL    kl_coef ← kl_coef·(1 + clip(kl/target - 1, ±0.2)·n/horizon)
                   kl nats per response (kl_k1), n responses; section 2.2, arXiv:1909.08593
    KL guard       k3 of KL(π_old, π) on an update's batch over kl_ceiling: the update is dropped,
                   and the iteration's remaining ones (update.py)
    max_kl         kl_k1 of a rollout over it: training ends with an error
    rollback       s_1, s_2, …  a judge's mean P(better than the start) on held-out prompts.
                   `after` of them in a row below the best: policy and optimizer go back to the
                   best one's checkpoint. As many again without a new best: back once more, the end

Why max_kl is an error and not an early end: a policy that far off has most likely found a hole in
the score (arXiv:2210.10760), and the next stage of a recipe must not take it for a finished one.
Why a second rollback to the same best is the end: training has left it for a worse policy twice.
An evaluation without a score (the judge gave None) is ignored.
After a rollback the iterations go on counting, and with them the learning rate's decay and the
seeds, so that the next iterations are not a repetition; kl_coef keeps its adapted value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlaif.training.config import TrainingError

MAX_ERROR = 0.2  # relative errors are clipped to it (arXiv:1909.08593, section 2.2)
ROLLBACKS_TO_ONE_BEST = 2

Decision = Literal["go on", "new best", "roll back", "end"]


def adapt_kl_coef(kl_coef: float, kl: float, target: float, count: int, horizon: float) -> float:
    """Next kl_coef of the adaptive KL controller (arXiv:1909.08593, section 2.2).

    kl, target: nats per response, kl the mean over `count` responses; horizon: in responses.
    """
    error = min(max(kl / target - 1, -MAX_ERROR), MAX_ERROR)
    return kl_coef * (1 + error * count / horizon)


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

    best: float | None = None  # highest score so far
    below: int = 0  # consecutive evaluations below it
    rollbacks: int = 0  # rollbacks to it

    @property
    def ended(self) -> bool:
        """Whether training ends: it was rolled back to the same best evaluation twice."""
        return self.rollbacks >= ROLLBACKS_TO_ONE_BEST


class RollbackDecision(NamedTuple):
    """What to do after an evaluation, and the state from then on."""

    state: RollbackState
    decision: Decision


def after_evaluation(state: RollbackState, score: float | None, after: int) -> RollbackDecision:
    """Decide whether to continue after an evaluation, or to roll back to the best.

    score: None is ignored. after: consecutive scores below the best that cause a rollback.

    >>> after_evaluation(RollbackState(best=0.6, below=2), 0.5, after=3).decision
    'roll back'
    """
    if score is None:
        return RollbackDecision(state, "go on")
    if state.best is None or score > state.best:
        return RollbackDecision(RollbackState(best=score), "new best")
    below = state.below + 1 if score < state.best else 0
    if below < after:
        return RollbackDecision(RollbackState(state.best, below, state.rollbacks), "go on")
    back = RollbackState(state.best, 0, state.rollbacks + 1)
    return RollbackDecision(back, "end" if back.ended else "roll back")
