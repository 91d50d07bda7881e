"""The decisions that hold a policy back, by scripted sequences of scores."""

from __future__ import annotations

import re

import pytest

from rlaif.algorithms.ppo import guards
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.guards import (
    LOW_SD,
    RollbackState,
    adapt_kl_coef,
    after_evaluation,
    prompts_needed,
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


@pytest.mark.parametrize("iterations", [20, 100, 1000])
def test_the_kl_coefficient_can_follow_its_target_in_a_run_of_any_length(iterations: int) -> None:
    """With a horizon of 10000 responses, a KL of 1000 against a target of 3 moved .05 to .0516."""
    config = PPOConfig(iterations=iterations, kl_target=3.0, prompts_per_iteration=16)
    kl_coef = config.kl_coef
    for _ in range(iterations):
        kl_coef = adapt_kl_coef(kl_coef, 1000.0, 3.0, config.responses, config.horizon)
    assert 30 < kl_coef / config.kl_coef < 56
    assert PPOConfig(kl_target=3.0, kl_horizon=50).horizon == 50


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 5])
def test_the_kl_coefficient_stays_a_penalty_in_a_run_of_few_iterations(iterations: int) -> None:
    """One iteration is then several horizons: 1 - 0.2 * n/horizon was -1 at two iterations."""
    config = PPOConfig(iterations=iterations, kl_target=3.0)
    horizons = config.responses / config.horizon
    assert horizons == pytest.approx(20 / iterations)
    low = adapt_kl_coef(0.05, 0.0, 3.0, config.responses, config.horizon)
    high = adapt_kl_coef(0.05, 1000.0, 3.0, config.responses, config.horizon)
    assert low == pytest.approx(0.05 * 0.8**horizons)
    assert high == pytest.approx(0.05 * 1.2**horizons)


def test_the_kl_coefficient_adapts_alike_just_below_and_above_a_horizon() -> None:
    below, above = (adapt_kl_coef(0.05, 0.0, 3.0, count, 1000.0) for count in (1000, 1001))
    assert below == pytest.approx(0.05 * 0.8)
    assert above == pytest.approx(below, rel=1e-3)


NEW, ON, BACK, END = "new best", "go on", "roll back", "end"
PROMPTS = 40


def evaluation(mean: float | None) -> list[float | None]:
    """Scores of 40 prompts with this mean; every one differs from the others, alike each time."""
    return [None if mean is None else mean + 0.004 * (i - 19.5) for i in range(PROMPTS)]


def decisions(means: list[float | None], looks: int = 10, count: int = PROMPTS) -> list[str]:
    state, found = RollbackState(), []
    for number, mean in enumerate(means):
        # a little noise, so that the differences between two evaluations are not all the same
        noisy = [None if s is None else s + 0.01 * ((7 * i + 3 * number) % 5 - 2)
                 for i, s in enumerate(evaluation(mean))][:count]  # fmt: skip
        decision = after_evaluation(state, noisy, looks=looks, error=0.05)
        state = decision.state
        found.append(decision.decision)
        if decision.decision == "end":
            assert state.ended
            break
    return found


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.5, 0.6, 0.7], [NEW, NEW, NEW]),
        ([0.6, 0.599, 0.598, 0.599], [NEW, ON, ON, ON]),  # within chance, however often
        ([0.6, 0.5, 0.7, 0.6], [NEW, BACK, NEW, BACK]),  # new bests each
        ([0.6, 0.5, 0.598, 0.5], [NEW, BACK, ON, END]),  # twice to the same best
        ([None, 0.5, None, 0.4], [ON, NEW, ON, BACK]),  # no score, no vote
    ],
)
def test_rollback_follows_from_a_sequence_of_evaluations(
    means: list[float | None], expected: list[str]
) -> None:
    assert decisions(means) == expected


def test_rollback_never_happens_with_too_few_prompts() -> None:
    assert prompts_needed(10, LOW_SD, 0.05) == 33
    assert decisions([0.9, 0.1], count=33) == [NEW, BACK]
    assert decisions([0.9, 0.1], count=32) == [NEW, ON]


def test_rollback_compares_only_prompts_that_have_both_scores() -> None:
    best = RollbackState(best=(0.6, None) * 40)
    now = [0.6 + 0.01 * (i % 3) if i % 2 == 0 else 0.0 for i in range(80)]
    decision = after_evaluation(best, now, looks=10, error=0.05)
    assert decision.decision == NEW
    assert decision.fall == pytest.approx(-0.01, abs=0.001)


def test_rollback_state_without_a_score_stays_as_it_was() -> None:
    state = RollbackState(best=(0.6, 0.7), rollbacks=1)
    assert after_evaluation(state, [None, None], looks=10, error=0.05).state == state


def test_prompts_needed_are_those_of_the_table_in_the_module() -> None:
    assert guards.__doc__ is not None
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+)$", guards.__doc__, re.MULTILINE)
    assert [int(looks) for looks, *_ in rows] == [5, 10, 20, 50]
    for looks, low, high in rows:
        assert prompts_needed(int(looks), 0.06, 0.05) == int(low)
        assert prompts_needed(int(looks), 0.09, 0.05) == int(high)


def test_a_kl_over_its_ceiling_names_itself_and_the_remedy() -> None:
    require_kl_within(99.0, None, "here")
    require_kl_within(5.0, 5.0, "here")
    with pytest.raises(TrainingError, match=r"here: the policy is 5\.25 nats .* over max_kl=5; "):
        require_kl_within(5.25, 5.0, "here")
