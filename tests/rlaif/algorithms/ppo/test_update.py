"""PPO's losses by hand; its gradients however they are divided up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.ppo.drawing.models import PPOModels
from rlaif.algorithms.ppo.losses import policy_losses, reference_losses, value_losses
from rlaif.algorithms.ppo.rollout import Rollout, importance_weights, roll_out
from rlaif.algorithms.ppo.update import update
from rlaif.batching.encode import pad
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.distributed.processes import ProcessGroup
from tests.support.training.gradients import GradientKeeper, OneOfSeveral
from tests.support.training.ppo_runs import ALONE, encoded, forwards_of, models_over, small


def test_the_policy_loss_is_clipped_where_it_would_gain() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0])
    losses = policy_losses(ratio.log(), torch.zeros(4), advantages, 0.2, 0.2)
    torch.testing.assert_close(losses, torch.tensor([-2.4, 3.0, -1.0, 1.6]))


def test_at_ratio_1_the_policy_loss_is_the_advantage_negated() -> None:
    advantages, same = torch.randn(5), torch.randn(5)
    torch.testing.assert_close(policy_losses(same, same, advantages, 0.2, 0.2), -advantages)


def test_the_value_loss_takes_the_worse_of_clipped_and_plain() -> None:
    # v_old = 0, R = 1: v = 0.5 is clipped to 0.2; v = -1 to -0.2
    losses = value_losses(torch.tensor([0.5, -1.0, 0.1]), torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(losses, torch.tensor([0.5 * 0.64, 0.5 * 4.0, 0.5 * 0.81]))


def test_the_reference_loss_pulls_towards_the_reference() -> None:
    # k3 = ref/π - 1 - log(ref/π); its slope in log π is 1 - ref/π: 0 at the reference itself
    logprobs = torch.tensor([0.5, 0.25, 0.125]).log().requires_grad_()
    ref = torch.tensor([0.25, 0.25, 0.25]).log()
    losses = reference_losses(logprobs, ref)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([0.193147, 0.0, 0.306853]))
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.5, 0.0, -1.0]))


def test_importance_weights_make_the_samplers_tokens_count_as_the_trainers() -> None:
    trainer, sampler = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.4, 0.2])
    weights = importance_weights(trainer.log(), sampler.log())
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.75, 2.5]))
    reward = torch.tensor([1.0, -3.0, 2.0])
    torch.testing.assert_close((sampler * weights * reward).sum(), (trainer * reward).sum())


BY_SEQUENCE = {"advantages": "grpo", "group_size": 2, "ratio": "sequence"}


def rolled_out(model: str, questions, **settings) -> tuple[PPOModels, Rollout, PPOConfig]:
    config = small(**settings)
    models = models_over(model, config)
    rollout, _ = roll_out(models, encoded(models, questions), 1, 0.05, config, ALONE)
    return models, rollout, config


def gradients(
    models: PPOModels, rollout: Rollout, config: PPOConfig, workers: ProcessGroup = ALONE
) -> dict[str, torch.Tensor]:
    """Of one step over the whole rollout, as one process of `workers` finds it."""
    parameters = dict(models.policy.role_parameters("policy"))
    if models.critic is not None:
        parameters |= models.critic.parameters()
    learner = GradientKeeper([(parameters, 1e-3)], 1, config, ALONE)
    update(models, learner, rollout, config, workers, 1)
    return learner.gradients


@pytest.mark.parametrize(
    "settings",
    [
        {"value": "head"},
        {"value": "adapter"},
        {"advantages": "rloo", "group_size": 2},
        {"advantages": "grpo", "group_size": 2},
    ],
)
def test_micro_batches_and_processes_do_not_change_the_gradient(
    settings, tiny_model, questions
) -> None:
    whole_batch = {"prompts_per_iteration": 6, "update_batch_size": 12}
    models, rollout, config = rolled_out(tiny_model, questions, **whole_batch, **settings)
    whole = gradients(models, rollout, config)
    assert sum(float(g.abs().sum()) for g in whole.values()) > 0.1
    tight = config.model_copy(update={"micro_batch_tokens": 40})
    for parts in (
        [gradients(models, rollout, tight)],
        [gradients(models, rollout, config, OneOfSeveral(rank, 2)) for rank in (0, 1)],
        [gradients(models, rollout, tight, OneOfSeveral(rank, 3)) for rank in (0, 1, 2)],
    ):
        for name, gradient in whole.items():
            assert (gradient - sum(part[name] for part in parts)).abs().max() < 1e-6, name


@pytest.mark.parametrize("settings", [{"value": "head"}, {"value": "adapter"}, BY_SEQUENCE])
def test_a_step_with_fewer_responses_than_processes_has_the_gradient_of_one(
    settings, tiny_model, questions
) -> None:
    models, rollout, config = rolled_out(tiny_model, questions, update_batch_size=2, **settings)
    few = replace(rollout, trained=rollout.trained[:2])  # one step
    whole = gradients(models, few, config)
    shares = [gradients(models, few, config, OneOfSeveral(rank, 3)) for rank in range(3)]
    assert not any(gradient.any() for gradient in shares[2].values())
    assert all(any(gradient.any() for gradient in share.values()) for share in shares[:2])
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares), gradient)


def test_a_rollout_shared_out_and_gathered_is_that_of_one_process(
    tiny_model, questions, monkeypatch
) -> None:
    """Two processes, played one after the other: each hands over its share, and gets the whole."""
    config = small(prompts_per_iteration=6, micro_batch_tokens=100)
    models = models_over(tiny_model, config)
    prompts = encoded(models, questions)
    alone, reported = roll_out(models, prompts, 1, 0.05, config, ALONE)
    shares: list[list] = []

    class One(OneOfSeveral):
        __slots__ = ()

        def gather(self, items):
            if isinstance(items[0], dict):  # the reasons of what has no score
                return list(items)
            shares.append(list(items))
            return [shares[i % 2][i // 2] for i in range(6)] if len(shares) == 2 else list(items)

    roll_out(models, prompts, 1, 0.05, config, One(0, 2))
    together, reported_together = roll_out(models, prompts, 1, 0.05, config, One(1, 2))
    assert [len(share) for share in shares] == [3, 3]
    assert together.rows == alone.rows
    torch.testing.assert_close(together.advantages, alone.advantages, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.targets.returns, alone.targets.returns)
    assert reported_together["score"] == reported["score"]


def test_the_responses_to_one_prompt_compute_it_once(tiny_model, questions, monkeypatch) -> None:
    settings = {"advantages": "rloo", "group_size": 4, "update_batch_size": 8}
    config = small(prompts_per_iteration=2, **settings)
    models = models_over(tiny_model, config)
    models.sampler.exact = False
    made = forwards_of(models.policy, monkeypatch)
    rollout, _ = roll_out(models, encoded(models, questions)[:2], 1, 0.05, config, ALONE)
    assert len(rollout.rows) == 8
    gradients(models, rollout, config)
    assert made == [("policy", 2), (None, 2), ("policy", 2)]  # rows: a prompt, four responses


def test_with_a_head_the_trunk_gets_both_losses_gradients_in_one_pass(
    tiny_model, questions, monkeypatch
) -> None:
    """∇(L_π + c L_V) = ∇L_π + c ∇L_V, of one forward; with advantages 0, L_V's alone is seen."""
    settings = {"update_batch_size": 6, "prompts_per_iteration": 6}
    models, rollout, config = rolled_out(tiny_model, questions, vf_coef=0.3, **settings)
    made = forwards_of(models.policy, monkeypatch)
    both = gradients(models, rollout, config)
    assert made == [("policy", 6)]
    of_policy = gradients(models, rollout, config.model_copy(update={"vf_coef": 0.0}))
    still = replace(rollout, advantages=torch.zeros_like(rollout.advantages))
    of_value = gradients(models, still, config.model_copy(update={"vf_coef": 1.0}))
    for name, gradient in both.items():
        expected = of_policy[name] + 0.3 * of_value[name]
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert any(of_value[name].abs().max() > 1e-3 for name in both if ".policy." in name)
    assert not of_policy["value_head.weight"].any()


def test_logprobs_and_values_are_measured_by_one_forward_of_the_policy(
    tiny_model, questions, monkeypatch
) -> None:
    """And are what two would have given; an adapter's takes a forward of its own."""
    for value, expected in (("head", ["policy", None]), ("adapter", ["policy", "value", None])):
        config = small(prompts_per_iteration=6, value=value)
        models = models_over(tiny_model, config)
        models.sampler.exact = False
        with monkeypatch.context() as patch:
            made = forwards_of(models.policy, patch)
            rollout, _ = roll_out(models, encoded(models, questions), 1, 0.05, config, ALONE)
        assert [role for role, _ in made] == expected
        batch = pad(rollout.rows)
        with torch.no_grad():
            values = models.critic.values(pad_packs([[row] for row in rollout.rows]))
            logprobs = models.policy.logprobs("policy", batch)[batch.response_mask]
        torch.testing.assert_close(rollout.targets.values[rollout.mask], values)
        torch.testing.assert_close(rollout.old_logprobs[rollout.mask], logprobs)
        assert values.abs().max() > 0.01


def test_the_importance_weight_multiplies_the_gradient_and_has_none(tiny_model, questions) -> None:
    settings = {"update_batch_size": 6, "value": "adapter"}  # so that L_V stays out of the policy
    models, rollout, config = rolled_out(tiny_model, questions, **settings)
    plain = gradients(models, rollout, config)
    doubled = replace(rollout, importance=2 * rollout.importance)
    for name, gradient in gradients(models, doubled, config).items():
        factor = 2 if ".policy." in name else 1  # the value loss is not weighed
        torch.testing.assert_close(gradient, factor * plain[name], atol=1e-7, rtol=1e-5)


def test_an_exact_samplers_logprobs_are_the_trainers(tiny_model, questions) -> None:
    """The forward that they save would have given the same numbers."""
    config = small(prompts_per_iteration=6, temperature=0.7)
    models = models_over(tiny_model, config)
    with torch.no_grad():  # away from the base, that an adapter left off would show
        for parameter in models.policy.role_parameters("policy").values():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    prompts = encoded(models, questions)
    reused, _ = roll_out(models, prompts, 1, 0.05, config, ALONE)
    models.sampler.exact = False
    computed, reported = roll_out(models, prompts, 1, 0.05, config, ALONE)
    assert reused.rows == computed.rows
    torch.testing.assert_close(reused.old_logprobs, computed.old_logprobs, atol=2e-5, rtol=0)
    assert reported["kl_k3"] > 1e-3
    assert reported["importance_mean"] == pytest.approx(1, abs=1e-4)
    assert bool((reused.importance == 1).all())
