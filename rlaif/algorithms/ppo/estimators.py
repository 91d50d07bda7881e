"""The advantage estimators by name, and what each needs. Imports no torch: settings read the table.

    gae     GAE over a value function's predictions (arXiv:1506.02438)
    rloo    the score and KL of a response less the mean of its group's others (arXiv:2402.14740)
    grpo    the score in standard deviations off its group's mean (arXiv:2402.03300)
    dr_grpo the score less its group's mean (arXiv:2503.20783)

The equations are in advantages.py. To add an estimator: a file with an `Estimator` (of
estimator_base.py), and its line in ESTIMATORS.
"""

from __future__ import annotations

from rlaif.algorithms.ppo.estimator_base import (
    AdvantageEstimate,
    Estimator,
    PPOSettings,
    ScoredResponses,
)


def _gae(responses: ScoredResponses, kl_coef: float, config: PPOSettings) -> AdvantageEstimate:
    from rlaif.algorithms.ppo.advantages import gae_advantages, token_rewards
    from rlaif.batching.logprobs import whiten

    mask = responses.mask  # (B, R)
    rewards = token_rewards(responses.kl_k1, responses.scores, mask, kl_coef)  # (B, R)
    gae = gae_advantages(rewards, responses.values, mask, config.gamma, config.gae_lambda)
    return AdvantageEstimate(whiten(gae.advantages, mask), rewards.sum(1), gae.returns)


def _rloo(responses: ScoredResponses, kl_coef: float, _config: PPOSettings) -> AdvantageEstimate:
    from rlaif.algorithms.ppo.advantages import on_every_token, response_rewards, rloo_advantages

    mask = responses.mask  # (B, R)
    rewards = response_rewards(responses.kl_k1, responses.scores, mask, kl_coef)  # (B,)
    advantages = rloo_advantages(rewards, responses.groups)  # (B,)
    return AdvantageEstimate(on_every_token(advantages, mask), rewards, None)


def _grpo(responses: ScoredResponses, _kl_coef: float, _config: PPOSettings) -> AdvantageEstimate:
    from rlaif.algorithms.ppo.advantages import grpo_advantages, on_every_token

    advantages = grpo_advantages(responses.scores, responses.groups)  # (B,)
    return AdvantageEstimate(on_every_token(advantages, responses.mask), responses.scores, None)


def _dr_grpo(
    responses: ScoredResponses, _kl_coef: float, _config: PPOSettings
) -> AdvantageEstimate:
    from rlaif.algorithms.ppo.advantages import centered_advantages, on_every_token

    advantages = centered_advantages(responses.scores, responses.groups)  # (B,)
    return AdvantageEstimate(on_every_token(advantages, responses.mask), responses.scores, None)


# Settings of estimators whose advantage is the same for all tokens of a response.
_OF_RESPONSES = ("ratio", "truncated")

ESTIMATORS: dict[str, Estimator] = {
    "gae": Estimator(_gae, needs_value=True, settings=("gamma", "gae_lambda")),
    "rloo": Estimator(_rloo, min_group_size=2, settings=_OF_RESPONSES),
    "grpo": Estimator(_grpo, min_group_size=2, kl_in_loss=True, settings=_OF_RESPONSES),
    "dr_grpo": Estimator(_dr_grpo, min_group_size=2, kl_in_loss=True, settings=_OF_RESPONSES),
}
