"""The advantage estimators by name, and what each needs. Imports no torch: settings read the table.

    gae     GAE over a value function's predictions (arXiv:1506.02438)
    rloo    the score and KL of a response less the mean of its group's others (arXiv:2402.14740)
    grpo    the score in standard deviations off its group's mean (arXiv:2402.03300)

The equations are in advantages.py. To add an estimator: a file with an `Estimator`, and its line in
ESTIMATORS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ScoredResponses:
    """Input of an estimator: B scored responses, of at most R tokens."""

    scores: Tensor  # (B,), penalties taken off
    groups: Tensor  # (B,), a number per prompt: the responses to one prompt are a group
    kl_k1: Tensor  # (B, R) nats, 0 outside the mask
    values: Tensor  # (B, R), before the updates; 0 without a value function
    mask: Tensor  # (B, R), True on response tokens, a run from 0


@dataclass(frozen=True, slots=True)
class AdvantageEstimate:
    """Output of an estimator: the targets of policy and value function."""

    advantages: Tensor  # (B, R), as the policy loss takes them; 0 outside the mask
    rewards: Tensor  # (B,), total reward of each response: the metric "reward" is their mean
    returns: Tensor | None  # (B, R), the value function's targets; None without one


class PPOSettings(Protocol):
    """The settings that estimators read; PPOConfig has them."""

    @property
    def gamma(self) -> float:
        """Discount per token, in [0, 1]."""

    @property
    def gae_lambda(self) -> float:
        """λ of GAE in [0, 1]: lower reduces variance, and increases bias."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """An advantage estimator and what it requires, an entry of ESTIMATORS."""

    # responses, kl_coef, settings
    compute: Callable[[ScoredResponses, float, PPOSettings], AdvantageEstimate]
    needs_value: bool = False  # a value function is trained, and `returns` are its targets
    min_group_size: int = 1  # responses per prompt that it compares
    kl_in_loss: bool = False  # kl_coef·k3 is added to the policy loss; else the KL is in the reward
    settings: tuple[str, ...] = ()  # keys of PPOConfig that nothing else reads


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


ESTIMATORS: dict[str, Estimator] = {
    "gae": Estimator(_gae, needs_value=True, settings=("gamma", "gae_lambda")),
    "rloo": Estimator(_rloo, min_group_size=2),
    "grpo": Estimator(_grpo, min_group_size=2, kl_in_loss=True),
}
