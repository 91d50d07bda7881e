"""PPO's equations by hand, its invariants, and what its training does."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from rlaif import ppo
from rlaif.backbone import Backbone
from rlaif.batching import encode_prompts
from rlaif.ppo import (
    Actors,
    PPOConfig,
    adapt_kl_coef,
    explained_variance,
    generalised_advantages,
    policy_losses,
    roll_out,
    token_rewards,
    train,
    value_losses,
)
from rlaif.scoring import Heads, RewardModelError
from tests.rlaif.gradients import GradientKeeper

EVERY = torch.ones(1, 3, dtype=torch.bool)


def test_the_kl_coefficient_adapts_to_the_golden_value():
    assert adapt_kl_coef(0.2, 9.0, 6.0, 256, 1e4) == pytest.approx(0.2 * (1 + 0.2 * 256 / 1e4))
    assert adapt_kl_coef(0.2, 9.0, 6.0, 256, 1e4) == pytest.approx(0.201024, abs=1e-9)
    assert adapt_kl_coef(0.2, 6.0, 6.0, 256, 1e4) == 0.2
    assert adapt_kl_coef(0.2, 5.4, 6.0, 100, 1e4) == pytest.approx(0.2 * (1 - 0.1 * 0.01))


def test_gae_by_hand():
    # gamma = 1, λ = ½: δ = (0+2-1, 0+3-2, 4-3) = (1, 1, 1); A = (1+½(1+½), 1+½, 1)
    found = generalised_advantages(
        torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]), EVERY, 1.0, 0.5
    )
    torch.testing.assert_close(found.advantages, torch.tensor([[1.75, 1.5, 1.0]]))
    torch.testing.assert_close(found.returns, torch.tensor([[2.75, 3.5, 4.0]]))


def test_gae_with_discount_by_hand():
    # gamma = ½, λ = 0: A = δ = (0+½·2-1, 0+½·3-2, 4-3)
    found = generalised_advantages(
        torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]), EVERY, 0.5, 0.0
    )
    torch.testing.assert_close(found.advantages, torch.tensor([[0.0, -0.5, 1.0]]))


def test_with_lambda_1_the_return_is_the_sum_of_the_rewards_to_come():
    rewards = torch.randn(2, 7)
    every = torch.ones(2, 7, dtype=torch.bool)
    found = generalised_advantages(rewards, torch.randn(2, 7), every, 1.0, 1.0)
    torch.testing.assert_close(found.returns, rewards.flip(1).cumsum(1).flip(1))


def test_gae_does_not_see_prompts_or_pads():
    rewards, values = torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    alone = generalised_advantages(rewards, values, EVERY, 1.0, 0.95)
    mask = torch.tensor([[False, True, True, True, False]])
    noise = torch.full((1, 1), 77.0)
    within = generalised_advantages(
        torch.nn.functional.pad(rewards, (1, 1)),
        torch.cat([noise, values, noise], 1),
        mask,
        1,
        0.95,
    )
    torch.testing.assert_close(within.advantages[:, 1:4], alone.advantages)
    assert within.advantages[:, [0, 4]].abs().max() == 0


def test_gae_is_trls():
    """The loop of trl 1.12's experimental PPO, on rows of full length."""
    rewards, values = torch.randn(4, 9), torch.randn(4, 9)
    lastgaelam, reversed_ = 0, []
    for t in reversed(range(9)):
        nextvalues = values[:, t + 1] if t < 8 else 0.0
        delta = rewards[:, t] + 1.0 * nextvalues - values[:, t]
        lastgaelam = delta + 1.0 * 0.95 * lastgaelam
        reversed_.append(lastgaelam)
    every = torch.ones(4, 9, dtype=torch.bool)
    found = generalised_advantages(rewards, values, every, 1.0, 0.95)
    torch.testing.assert_close(found.advantages, torch.stack(reversed_[::-1], 1))


def test_the_score_lands_on_the_last_real_token_and_the_kl_on_each():
    k1 = torch.tensor([[9.0, 1.0, 2.0, 9.0], [9.0, 3.0, 1.0, 2.0]])
    mask = torch.tensor([[False, True, True, False], [False, True, True, True]])
    rewards = token_rewards(k1, torch.tensor([5.0, 7.0]), torch.tensor([2, 3]), mask, 0.1)
    expected = torch.tensor([[0.0, -0.1, 4.8, 0.0], [0.0, -0.3, -0.1, 6.8]])
    torch.testing.assert_close(rewards, expected)


def test_the_policy_loss_is_clipped_where_it_would_gain():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0])
    losses = policy_losses(ratio.log(), torch.zeros(4), advantages, 0.2)
    torch.testing.assert_close(losses, torch.tensor([-2.4, 3.0, -1.0, 1.6]))


def test_at_ratio_1_the_policy_loss_is_the_advantage_negated():
    advantages = torch.randn(5)
    same = torch.randn(5)
    torch.testing.assert_close(policy_losses(same, same, advantages, 0.2), -advantages)


def test_the_value_loss_takes_the_worse_of_clipped_and_plain():
    # v_old = 0, R = 1: v = 0.5 is clipped to 0.2; v = -1 to -0.2
    losses = value_losses(torch.tensor([0.5, -1.0, 0.1]), torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(losses, torch.tensor([0.5 * 0.64, 0.5 * 4.0, 0.5 * 0.81]))


def test_explained_variance_is_1_for_the_truth_and_0_for_a_constant():
    returns = torch.tensor([[1.0, 2.0, 4.0]])
    assert explained_variance(returns + 3, returns, EVERY) == pytest.approx(1)
    assert explained_variance(torch.zeros(1, 3), returns, EVERY) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 3), EVERY) == 0


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(ValidationError, match="kl_horizon does nothing without kl_target"):
        PPOConfig(kl_horizon=100)
    with pytest.raises(ValidationError, match="max_new_tokens must leave room"):
        PPOConfig(max_tokens=64, max_new_tokens=64)


def small(**settings) -> PPOConfig:
    base = {
        "dtype": "float32", "iterations": 2, "prompts_per_iteration": 4, "max_new_tokens": 8,
        "max_tokens": 60, "checkpoint_every": 1, "update_batch_size": 4, "micro_batch_size": 2,
    }  # fmt: skip
    return PPOConfig(**(base | settings))


def count_x(conversations, responses):
    return [float(sum(c in "xX" for c in r)) for r in responses]


def lines_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_first_rollout_has_no_kl_and_a_ratio_of_1(tiny_model, questions, tmp_path):
    config = small(iterations=1, epochs=1, micro_batch_size=4)
    first = lines_of(train(config, tiny_model, questions, count_x, tmp_path))[0]
    assert first["kl_k1"] == pytest.approx(0, abs=1e-5)
    assert first["kl_k3"] == pytest.approx(0, abs=1e-5)
    assert first["update_kl"] == pytest.approx(0, abs=1e-9)
    assert first["clip_fraction"] == 0
    assert first["sampler_gap"] < 1e-5
    assert first["explained_variance"] == 0  # V starts as 0
    assert first["policy_loss"] == pytest.approx(0, abs=1e-5)  # whitened advantages have mean 0


def test_it_learns_what_is_rewarded(tiny_model, questions, tmp_path):
    def even(conversations, responses):
        return [sum(ord(c) % 2 == 0 for c in r) / 8 for r in responses]

    config = small(
        iterations=25, prompts_per_iteration=24, learning_rate=1e-2, kl_coef=0.0, epochs=2,
        update_batch_size=24, micro_batch_size=24, missing_eos_penalty=0.0, kl_ceiling=1.0,
        checkpoint_every=25,
    )  # fmt: skip
    scores = [m["score"] for m in lines_of(train(config, tiny_model, questions, even, tmp_path))]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.15


def test_micro_batches_do_not_change_the_gradient(tiny_model, questions):
    backbone = Backbone.load(tiny_model, "float32")
    config = small(prompts_per_iteration=6)
    backbone.add_role("policy", config.lora, 0)
    backbone.add_role("value", config.lora, 1)
    head = Heads(["value"], backbone.hidden_size)
    head.randomise(0)
    actors = Actors(backbone, head, count_x)
    prompts, _ = encode_prompts(backbone.tokenizer, questions, 52, "error")
    generator = torch.Generator().manual_seed(0)
    rollout, _ = roll_out(actors, prompts, generator, 0.05, config, "here")
    parameters = {**backbone.role_parameters("policy"), **backbone.role_parameters("value")}
    parameters |= dict(head.named_parameters())

    def gradients(size: int) -> dict[str, torch.Tensor]:
        learner = GradientKeeper([(parameters, 1e-3)], 1, config)
        settings = small(micro_batch_size=size, update_batch_size=6, epochs=1)
        ppo.update(actors, learner, rollout, settings, "here")
        return learner.gradients

    whole, parts = gradients(6), gradients(1)
    assert all((whole[n] - parts[n]).abs().max() < 1e-6 for n in whole)
    assert {"weight", "bias"} <= {n for n in whole if whole[n].abs().max() > 1e-4}


def test_a_response_without_a_score_is_left_out_and_counted(tiny_model, questions, tmp_path):
    def sometimes(conversations, responses):
        return [None, 3.0, 3.0, None][: len(responses)]

    out = train(small(iterations=1), tiny_model, questions, sometimes, tmp_path)
    assert lines_of(out)[0]["unscored"] == 2
    assert lines_of(out)[0]["score"] == 3.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda c, r: [None] * len(r), "iteration 1: none of its 4 responses has a score"),
        (lambda c, r: [1.0], "gave 1 scores for 4 responses"),
        (lambda c, r: [math.nan] * len(r), "the score of a response to prompt q. is nan"),
        (lambda c, r: {}["x"], "the reward function raised KeyError: 'x'; the last checkpoint"),
    ],
)
def test_a_reward_that_cannot_be_used_is_a_clear_error(
    reward, message, tiny_model, questions, tmp_path
):
    with pytest.raises(RewardModelError, match=message):
        train(small(), tiny_model, questions, reward, tmp_path)


def test_a_missing_end_costs_the_penalty(tiny_model, questions, tmp_path):
    config = small(iterations=1, missing_eos_penalty=5.0, kl_coef=0.0)
    first = lines_of(train(config, tiny_model, questions, count_x, tmp_path))[0]
    assert first["reward"] == pytest.approx(first["score"] - 5 * (1 - first["eos_rate"]), abs=1e-5)


def test_the_kl_guard_stops_the_updates_of_an_iteration(tiny_model, questions, tmp_path):
    config = small(iterations=1, epochs=30, learning_rate=0.05, warmup=0.0, kl_ceiling=1e-3)
    first = lines_of(train(config, tiny_model, questions, count_x, tmp_path))[0]
    assert first["kl_guard"] == 1
    assert first["update_kl"] > 1e-3


def test_the_kl_coefficient_follows_its_target(tiny_model, questions, tmp_path):
    config = small(kl_target=6.0, kl_horizon=100.0)
    coefs = [
        m["kl_coef"] for m in lines_of(train(config, tiny_model, questions, count_x, tmp_path))
    ]
    assert coefs[0] == 0.05
    assert coefs[1] == pytest.approx(0.05 * (1 - 0.2 * 4 / 100))  # no KL yet: down by the most


def test_a_reward_models_folder_is_a_role_of_the_same_base(
    tiny_model, polite_pairs, questions, tmp_path
):
    from rlaif import reward_model

    settings = reward_model.RewardConfig(dtype="float32", epochs=1, max_tokens=200)
    folder = reward_model.train(
        settings, tiny_model, polite_pairs, tmp_path / "reward", {"manners": 1.0}
    )
    first = lines_of(train(small(), tiny_model, questions, folder, tmp_path / "ppo"))
    assert len(first) == 2
    assert all(math.isfinite(m["score"]) for m in first)
