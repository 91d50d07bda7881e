"""The decisions that hold a policy back, by scripted sequences of scores."""

from __future__ import annotations

import pytest

from rlaif.algorithms.ppo.guards import (
    RollbackState,
    adapt_kl_coef,
    after_evaluation,
    require_kl_within,
)
from rlaif.training.config import TrainingError


def test_the_kl_coefficient_adapts_to_the_golden_value() -> None:
    assert adapt_kl_coef(0.2, 9.0, 6.0, 256, 1e4) == pytest.approx(0.2 * (1 + 0.2 * 256 / 1e4))
    assert adapt_kl_coef(0.2, 9.0, 6.0, 256, 1e4) == pytest.approx(0.201024, abs=1e-9)
    assert adapt_kl_coef(0.2, 6.0, 6.0, 256, 1e4) == 0.2
    assert adapt_kl_coef(0.2, 5.4, 6.0, 100, 1e4) == pytest.approx(0.2 * (1 - 0.1 * 0.01))


def test_the_kl_coefficient_is_held_off_0_however_low_the_kl() -> None:
    assert adapt_kl_coef(0.2, -50.0, 6.0, 100, 1e3) == pytest.approx(0.2 * (1 - 0.2 * 0.1))


def decisions(scores: list[float | None], after: int) -> list[str]:
    state, found = RollbackState(), []
    for score in scores:
        state, decision = after_evaluation(state, score, after)
        found.append(decision)
        if decision == "end":
            assert state.ended
            break
    return found


NEW, ON, BACK, END = "new best", "go on", "roll back", "end"


@pytest.mark.parametrize(
    ("scores", "after", "expected"),
    [
        ([0.5, 0.6, 0.7], 1, [NEW, NEW, NEW]),
        ([0.6, 0.5, 0.55, 0.4], 3, [NEW, ON, ON, BACK]),
        ([0.6, 0.5, 0.6, 0.5, 0.5], 2, [NEW, ON, ON, ON, BACK]),  # as good as the best: not below
        ([0.6, 0.5, 0.7, 0.6, 0.5], 2, [NEW, ON, NEW, ON, BACK]),
        ([0.6, 0.5, 0.4, 0.5, 0.4], 2, [NEW, ON, BACK, ON, END]),
        ([0.6, 0.5, 0.7, 0.6, 0.8, 0.1], 1, [NEW, BACK, NEW, BACK, NEW, BACK]),  # new bests each
        ([0.6, 0.5, 0.5], 1, [NEW, BACK, END]),
        ([None, 0.5, None, 0.4, None, 0.4], 2, [ON, NEW, ON, ON, ON, BACK]),  # no score, no vote
    ],
)
def test_a_sequence_of_scores_leads_to(
    scores: list[float | None], after: int, expected: list[str]
) -> None:
    assert decisions(scores, after) == expected


def test_a_scoreless_evaluation_leaves_the_state_as_it_was() -> None:
    state = RollbackState(best=0.6, below=1, rollbacks=1)
    assert after_evaluation(state, None, 1).state == state


def test_a_kl_over_its_ceiling_names_itself_and_the_remedy() -> None:
    require_kl_within(99.0, None, "here")
    require_kl_within(5.0, 5.0, "here")
    with pytest.raises(TrainingError, match=r"here: the policy is 5\.25 nats .* over max_kl=5; "):
        require_kl_within(5.25, 5.0, "here")
