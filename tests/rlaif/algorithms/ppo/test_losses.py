"""The policy's losses by tokens and by responses, and the batches that they are computed on."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch
from pydantic import ValidationError

from rlaif.algorithms.ppo.advantages import centered_advantages, grpo_advantages
from rlaif.algorithms.ppo.config import PPOConfig, idle_processes
from rlaif.algorithms.ppo.losses import clipped_ratios, policy_losses, row_means
from rlaif.algorithms.ppo.rollout import roll_out
from rlaif.algorithms.ppo.update import policy_gradients, shuffled_batches, update
from rlaif.training.learner import Learner
from tests.support.training.ppo_runs import ALONE, encoded, models_over, small

GROUPS = {"advantages": "rloo", "group_size": 2, "prompts_per_iteration": 2}


def test_clip_higher_lets_a_ratio_rise_further_than_it_may_fall() -> None:
    ratio = torch.tensor([0.7, 1.25, 1.4])
    losses = policy_losses(ratio.log(), torch.zeros(3), torch.ones(3), 0.2, 0.28)
    torch.testing.assert_close(losses, torch.tensor([-0.7, -1.25, -1.28]))
    down = policy_losses(ratio.log(), torch.zeros(3), -torch.ones(3), 0.2, 0.28)
    torch.testing.assert_close(down, torch.tensor([0.8, 1.25, 1.4]))
    low, high = clipped_ratios(ratio.log(), torch.zeros(3), 0.2, 0.28)
    assert low.tolist() == [True, False, False]
    assert high.tolist() == [False, False, True]


def test_row_means_are_those_of_each_responses_tokens() -> None:
    values = torch.tensor([1.0, 3.0, 5.0, 1.0, 2.0])
    torch.testing.assert_close(
        row_means(values, torch.tensor([2, 3])), torch.tensor([2.0, 8.0 / 3.0])
    )


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens() -> None:
    """Ratios 2 and 1/8 of two tokens: (2 · 1/8)^½ = ½; Eq. 7 of arXiv:2507.18071."""
    logprobs, lengths = torch.tensor([2.0, 0.125]).log(), torch.tensor([2])
    ratio = row_means(logprobs, lengths).exp()
    torch.testing.assert_close(ratio, torch.tensor([0.5]))
    loss = policy_losses(row_means(logprobs, lengths), torch.zeros(1), torch.ones(1), 0.9, 0.9)
    torch.testing.assert_close(loss, torch.tensor([-0.5]))


def test_at_ratio_one_a_sequences_gradient_is_that_of_its_mean_logprob() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    lengths, advantages = torch.tensor([2, 1]), torch.tensor([0.5, -1.0])
    old = row_means(logprobs.detach(), lengths)
    policy_losses(row_means(logprobs, lengths), old, advantages, 3e-4, 4e-4).sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.25, -0.25, 1.0]))


def test_dr_grpos_advantages_are_grpos_without_the_division() -> None:
    scores, groups = torch.tensor([1.0, 3.0, 5.0, 7.0, 2.0]), torch.tensor([0, 0, 1, 1, 2])
    torch.testing.assert_close(
        centered_advantages(scores, groups), torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.0])
    )
    spread = torch.tensor(2.0).sqrt()
    torch.testing.assert_close(
        grpo_advantages(scores, groups) * (spread + 1e-4), centered_advantages(scores, groups)
    )


def test_rows_are_shuffled_by_seed_iteration_and_epoch() -> None:
    config = small(epochs=2, group_size=4, advantages="rloo", seed=3)
    batches = shuffled_batches(list(range(16)), 4, config, 1)
    assert [len(batch) for batch in batches] == [4] * 8
    first, second = batches[:4], batches[4:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(16))
    assert first != second
    assert all(len({row // 4 for row in batch}) > 1 for batch in batches)  # of several prompts
    assert shuffled_batches(list(range(16)), 4, config, 1) == batches
    assert shuffled_batches(list(range(16)), 4, config, 2) != batches
    other = config.model_copy(update={"seed": 4})
    assert shuffled_batches(list(range(16)), 4, other, 1) != batches


@pytest.mark.parametrize(("given", "expected"), [({}, 4), ({"prompts_per_iteration": 3}, 1)])
def test_a_step_takes_a_quarter_of_the_rollout_unless_told(given, expected) -> None:
    assert PPOConfig(**given).batch_rows == expected
    assert PPOConfig(group_size=8, advantages="grpo").batch_rows == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": "sequence"}, "advantages=gae does not use ratio"),
        ({"truncated": "mask"}, "advantages=gae does not use truncated"),
        (
            {"epochs": 1, "update_batch_size": 16, "clip": 0.1},
            "clip does nothing with one optimizer",
        ),
        (
            {**GROUPS, "update_batch_size": 4, "clip_high": 0.3, "kl_ceiling": 1.0},
            "clip_high, kl_ceiling do nothing with one .*update_batch_size=4 of 4 responses",
        ),
        ({"prompts_per_iteration": 1, "value_clip": 0.1}, "value_clip does nothing with one"),
        (
            {**GROUPS, "truncated": "mask", "missing_eos_penalty": 1.0},
            "missing_eos_penalty does nothing with truncated=mask",
        ),
    ],
)
def test_settings_that_cannot_have_an_effect_are_refused(settings, words) -> None:
    with pytest.raises(ValidationError, match=words):
        PPOConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"epochs": 2, "update_batch_size": 16}, {"update_batch_size": 15}, {}]
)
def test_a_clip_is_accepted_where_a_rollout_has_a_second_step(settings) -> None:
    assert PPOConfig(clip=0.1, **settings).steps_per_iteration > 1


def test_processes_without_a_response_in_a_step_are_said() -> None:
    few = PPOConfig(prompts_per_iteration=4)
    assert idle_processes(few, 1) == ""
    assert idle_processes(few, 3).startswith(
        "update_batch_size=1 gives 2 of the 3 processes nothing to compute in an update; raise it "
        "(the 4 responses"
    )


def test_the_clip_fits_what_is_clipped() -> None:
    assert (PPOConfig().clip, PPOConfig().clip_high) == (0.2, 0.2)
    assert (PPOConfig(clip=0.1).clip_high, PPOConfig(clip_high=0.28).clip) == (0.1, 0.2)
    sequences = PPOConfig(**GROUPS, ratio="sequence", update_batch_size=4)
    assert (sequences.clip, sequences.clip_high) == (3e-4, 4e-4)


def rolled_out(model, questions, **settings):
    config = small(**GROUPS, **settings)
    models = models_over(model, config)
    prompts = encoded(models, questions)[:2]
    rollout, metrics = roll_out(models, prompts, 1, 0.05, config, ALONE)
    return models, rollout, metrics, config


def test_a_masked_response_has_no_loss_and_is_not_counted(tiny_model, questions) -> None:
    models, rollout, metrics, config = rolled_out(tiny_model, questions, truncated="mask")
    assert metrics["masked"] == 4 - len(rollout.trained)
    one = replace(rollout, trained=[0])
    parameters = models.policy.role_parameters("policy")
    learner = Learner([(parameters, 1e-3)], 1, config, ALONE)
    policy_gradients(models, one, one.trained, config, ALONE, "here")
    alone = {name: p.grad.clone() for name, p in parameters.items()}
    learner.clear()
    changed = replace(one, advantages=one.advantages.clone())
    changed.advantages[1:] = 100.0  # of the masked rows
    policy_gradients(models, changed, changed.trained, config, ALONE, "here")
    for name, parameter in parameters.items():
        assert torch.equal(parameter.grad, alone[name]), name
    learner.clear()
    none = update(models, learner, replace(rollout, trained=[]), config, ALONE, 1)
    assert "policy_loss" not in none  # no step was made
    assert none["kl_guard"] == 0.0


def test_by_sequences_each_response_weighs_the_same_whatever_its_length(
    tiny_model, questions
) -> None:
    """At ratio 1 the loss is minus the mean advantage over responses, and not over tokens."""
    models, rollout, _, config = rolled_out(tiny_model, questions, ratio="sequence", kl_coef=0.0)
    advantages = torch.where(rollout.mask, torch.tensor([[1.0], [2.0], [3.0], [-2.0]]), 0.0)
    rows = replace(rollout, advantages=advantages)
    sums = policy_gradients(models, rows, rows.trained, config, ALONE, "here")
    assert sums["policy_loss"] == pytest.approx(-1.0, abs=1e-5)
    assert sums["clip_fraction"] == 0.0


def test_clip_fractions_say_on_which_side_ratios_are_out(tiny_model, questions) -> None:
    """Old log-probs moved by hand: all ratios of one response are e, of another 1/e."""
    models, rollout, _, config = rolled_out(tiny_model, questions, update_batch_size=2)
    moved = rollout.old_logprobs + torch.tensor([[-1.0], [1.0], [0.0], [0.0]])
    rows = replace(rollout, old_logprobs=moved)
    lengths = [row.response_length for row in rows.rows]
    sums = policy_gradients(models, rows, rows.trained, config, ALONE, "here")
    assert sums["clip_fraction_high"] == pytest.approx(lengths[0] / sum(lengths))
    assert sums["clip_fraction_low"] == pytest.approx(lengths[1] / sum(lengths))
    assert sums["clip_fraction"] == pytest.approx(sum(lengths[:2]) / sum(lengths))
