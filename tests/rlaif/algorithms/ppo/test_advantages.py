"""Advantages by hand, against slow definitions written another way, and their invariants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlaif.algorithms.ppo.advantages import (
    explained_variance,
    gae_advantages,
    grpo_advantages,
    last_places,
    on_every_token,
    response_rewards,
    rloo_advantages,
    token_rewards,
)
from rlaif.batching.logprobs import kl_k1, kl_k3, whiten

EVERY = torch.ones(1, 3, dtype=torch.bool)
RAGGED = torch.arange(7) < torch.tensor([[7], [1], [4], [6]])  # (4, 7) rows of unlike length


def random_rewards_and_values() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 7, generator=generator), torch.randn(4, 7, generator=generator)


# ── rewards ──────────────────────────────────────────────────────────────────────────────────


def test_the_score_lands_on_the_last_real_token_and_the_kl_on_each() -> None:
    k1 = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 2.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert last_places(mask).tolist() == [1, 2]
    rewards = token_rewards(k1, torch.tensor([5.0, 7.0]), mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 4.8, 0.0], [-0.3, -0.1, 6.8]]))


def test_what_a_response_earns_is_the_sum_of_what_its_tokens_earn() -> None:
    k1, _ = random_rewards_and_values()
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0])
    whole = response_rewards(k1, scores, RAGGED, 0.3)
    torch.testing.assert_close(whole, token_rewards(k1, scores, RAGGED, 0.3).sum(1))


def test_the_kl_estimators_by_hand() -> None:
    # π = ½, reference = ¼: r = log 2; k3 = ½ - 1 + r
    logprobs, ref = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert float(kl_k1(logprobs, ref)) == pytest.approx(0.693147, abs=1e-6)
    assert float(kl_k3(logprobs, ref)) == pytest.approx(0.193147, abs=1e-6)


# ── gae ──────────────────────────────────────────────────────────────────────────────────────


def test_gae_by_hand() -> None:
    # gamma = 1, λ = ½: δ = (0+2-1, 0+3-2, 4-3) = (1, 1, 1); A = (1+½(1+½), 1+½, 1)
    found = gae_advantages(
        torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]), EVERY, 1.0, 0.5
    )
    torch.testing.assert_close(found.advantages, torch.tensor([[1.75, 1.5, 1.0]]))
    torch.testing.assert_close(found.returns, torch.tensor([[2.75, 3.5, 4.0]]))


def test_gae_with_discount_by_hand() -> None:
    # gamma = ½, λ = 0: A = δ = (0+½·2-1, 0+½·3-2, 4-3)
    found = gae_advantages(
        torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]), EVERY, 0.5, 0.0
    )
    torch.testing.assert_close(found.advantages, torch.tensor([[0.0, -0.5, 1.0]]))


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (1, 1)])
def test_gae_is_the_discounted_sum_of_the_deltas_to_come(gamma: float, gae_lambda: float) -> None:
    """Eq. 16 of arXiv:1506.02438 as it stands, Σ_l (gamma·λ)^l δ_{t+l}, without the recursion."""
    rewards, values = random_rewards_and_values()
    found = gae_advantages(rewards, values, RAGGED, gamma, gae_lambda)
    for row, length in enumerate(RAGGED.sum(1).tolist()):
        v = [*values[row, :length].tolist(), 0.0]
        delta = [float(rewards[row, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            slow = sum((gamma * gae_lambda) ** n * delta[t + n] for n in range(length - t))
            assert float(found.advantages[row, t]) == pytest.approx(slow, abs=1e-5)
            assert float(found.returns[row, t]) == pytest.approx(slow + v[t], abs=1e-5)
        assert found.advantages[row, length:].abs().sum() == 0


def test_gae_agrees_with_a_masked_recursion_that_carries_over_gaps() -> None:
    """As verl writes it: where the mask is False, value and advantage of the step after stand. For
    rows that are a run of True then False, that is ours."""
    rewards, values = random_rewards_and_values()
    m = RAGGED.float()
    rewards, carry, after = rewards * m, torch.zeros(4), torch.zeros(4)
    steps = []
    for t in range(6, -1, -1):
        new = rewards[:, t] + 0.99 * after - values[:, t] + 0.99 * 0.9 * carry
        carry = new * m[:, t] + carry * (1 - m[:, t])
        after = values[:, t] * m[:, t] + after * (1 - m[:, t])
        steps.append(carry)
    theirs = torch.stack(steps[::-1], 1) * m
    found = gae_advantages(rewards, values, RAGGED, 0.99, 0.9)
    torch.testing.assert_close(found.advantages, theirs)
    # what is learned from is whitened: mean off, unbiased variance
    picked = theirs[RAGGED]
    expected = (picked - picked.mean()) / (picked.var() + 1e-8).sqrt()
    torch.testing.assert_close(whiten(found.advantages, RAGGED)[RAGGED], expected)


def test_gae_agrees_with_trl_1_12_by_hand() -> None:
    """TRL's loop on two full rows of two tokens, worked on paper: gamma = 1, λ = 0.95.

    row 1: r = (0.1, 1), V = (0.5, 0.2): δ₂ = 0.8, A₂ = 0.8; δ₁ = 0.1+0.2-0.5 = -0.2, A₁ = 0.56
    row 2: r = (-0.2, 2), V = (1, -1):   δ₂ = 3,   A₂ = 3;   δ₁ = -0.2-1-1 = -2.2,    A₁ = 0.65
    """
    rewards = torch.tensor([[0.1, 1.0], [-0.2, 2.0]])
    values = torch.tensor([[0.5, 0.2], [1.0, -1.0]])
    found = gae_advantages(rewards, values, torch.ones(2, 2, dtype=torch.bool), 1.0, 0.95)
    torch.testing.assert_close(found.advantages, torch.tensor([[0.56, 0.8], [0.65, 3.0]]))
    torch.testing.assert_close(found.returns, torch.tensor([[1.06, 1.0], [1.65, 2.0]]))


def test_with_lambda_1_the_return_is_the_sum_of_the_rewards_to_come() -> None:
    rewards, values = random_rewards_and_values()
    every = torch.ones(4, 7, dtype=torch.bool)
    found = gae_advantages(rewards, values, every, 1.0, 1.0)
    torch.testing.assert_close(found.returns, rewards.flip(1).cumsum(1).flip(1))


def test_gae_does_not_see_what_is_outside_the_mask() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    alone = gae_advantages(rewards, values, EVERY, 1.0, 0.95)
    noise = torch.full((1, 1), 77.0)
    within = gae_advantages(
        torch.nn.functional.pad(rewards, (1, 1)),
        torch.cat([noise, values, noise], 1),
        torch.tensor([[False, True, True, True, False]]),
        1,
        0.95,
    )
    torch.testing.assert_close(within.advantages[:, 1:4], alone.advantages)
    assert within.advantages[:, [0, 4]].abs().max() == 0


# ── group baselines ──────────────────────────────────────────────────────────────────────────


def test_leave_one_out_by_hand() -> None:
    # group 0: 1, 2, 6 → 1 - 4, 2 - 3.5, 6 - 1.5; group 1: 0, 10 → -10, 10; the order is free
    rewards = torch.tensor([1.0, 0.0, 2.0, 10.0, 6.0])
    groups = torch.tensor([0, 1, 0, 1, 0])
    found = rloo_advantages(rewards, groups)
    torch.testing.assert_close(found, torch.tensor([-3.0, -10.0, -1.5, 10.0, 4.5]))


def test_group_relative_by_hand() -> None:
    # group 0: 1, 2, 6: mean 3, variance (4+1+9)/2 = 7; group 1: 0, 10: mean 5, variance 50
    scores = torch.tensor([1.0, 0.0, 2.0, 10.0, 6.0])
    groups = torch.tensor([0, 1, 0, 1, 0])
    found = grpo_advantages(scores, groups)
    a, b = 7**0.5 + 1e-4, 50**0.5 + 1e-4
    torch.testing.assert_close(found, torch.tensor([-2 / a, -5 / b, -1 / a, 5 / b, 3 / a]))


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_a_group_has_advantages_of_mean_0_and_equals_or_a_response_alone_has_0(advantages) -> None:
    scores = torch.tensor([0.3, 1.7, -4.0, 2.0, 2.0, 9.0])
    found = advantages(scores, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert float(found[:3].sum()) == pytest.approx(0, abs=1e-5)
    assert found[3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_a_constant_added_to_a_groups_scores_changes_nothing(advantages) -> None:
    scores, groups = torch.tensor([0.5, 1.5, -4.0, 2.0]), torch.tensor([0, 0, 1, 1])
    shifted = scores + torch.tensor([8.0, 8.0, -2.0, -2.0])
    torch.testing.assert_close(advantages(shifted, groups), advantages(scores, groups))


def test_the_two_baselines_agree_with_trl_1_16() -> None:
    """TRL's RLOO baseline (the group's sum less one's own) and GRPO's normalization by the unbiased
    std + 1e-4, over rewards laid out as (prompts, generations)."""
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(3).repeat_interleave(4)
    rloo = rewards - (rewards.sum(1, keepdim=True) - rewards) / 3
    grpo = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    flat = rewards.flatten()
    torch.testing.assert_close(rloo_advantages(flat, groups), rloo.flatten())
    torch.testing.assert_close(grpo_advantages(flat, groups), grpo.flatten())


def test_an_advantage_of_the_response_is_that_of_each_of_its_tokens() -> None:
    found = on_every_token(torch.tensor([2.0, -1.0]), torch.tensor([[True, False], [True, True]]))
    assert found.tolist() == [[2, 0], [-1, -1]]


def test_explained_variance_is_1_for_the_truth_and_0_for_a_constant() -> None:
    returns = torch.tensor([[1.0, 2.0, 4.0]])
    assert explained_variance(returns + 3, returns, EVERY) == pytest.approx(1)
    assert explained_variance(torch.zeros(1, 3), returns, EVERY) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 3), EVERY) == 0
