"""How often the judge's guard goes back by chance, and how soon it sees a true decline: simulated
evaluations with the noise that was measured, no model."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rlaif.algorithms.ppo.guards import FALL, RollbackState, after_evaluation, prompts_needed

RUNS = 400
LOOKS = 10


def evaluations(
    rng: random.Random, prompts: int, sd: float, falls_at: int
) -> Iterator[list[float]]:
    """Scores of a policy that stands still, and from one evaluation on is worse by FALL."""
    level = [rng.gauss(0.5, 0.15) for _ in range(prompts)]
    for look in range(LOOKS):
        fall = FALL if look >= falls_at else 0.0
        yield [score - fall + rng.gauss(0.0, sd) for score in level]


def first_rollback(seed: int, prompts: int, sd: float, falls_at: int = LOOKS) -> int | None:
    state = RollbackState()
    for look, scores in enumerate(evaluations(random.Random(seed), prompts, sd, falls_at)):
        decision = after_evaluation(state, scores, looks=LOOKS, error=0.05)
        state = decision.state
        if decision.decision in ("roll back", "end"):
            return look
    return None


@pytest.mark.parametrize("sd", [0.06, 0.09])
def test_guard_rolls_back_a_policy_that_stands_still_in_at_most_one_run_of_twenty(
    sd: float,
) -> None:
    prompts = prompts_needed(LOOKS, sd, 0.05)
    rolled = sum(first_rollback(seed, prompts, sd) is not None for seed in range(RUNS))
    assert rolled / RUNS <= 0.05


@pytest.mark.parametrize("sd", [0.06, 0.09])
def test_guard_sees_a_true_decline_within_three_evaluations(sd: float) -> None:
    prompts, falls_at = prompts_needed(LOOKS, sd, 0.05), 4
    found = [first_rollback(seed, prompts, sd, falls_at) for seed in range(RUNS)]
    in_time = sum(look is not None and falls_at <= look < falls_at + 3 for look in found)
    assert in_time / RUNS >= 0.8


def test_guard_by_patience_alone_would_roll_back_most_policies_that_stand_still() -> None:
    """The rule that this one replaced: below the best, three evaluations in a row."""
    rolled = 0
    for seed in range(RUNS):
        best, below, back = 0.0, 0, False
        for scores in evaluations(random.Random(seed), 33, 0.06, LOOKS):
            mean = sum(scores) / len(scores)
            below = 0 if mean > best else below + 1
            best, back = max(best, mean), back or below == 3
        rolled += back
    assert rolled / RUNS > 0.8
