"""The models of PPO, and what one forward of the policy gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rlaif.algorithms.ppo.critic import Critic
from rlaif.batching.prefix_sharing import SharedBatch
from rlaif.generation.base import Sampler
from rlaif.models.backbone import Backbone
from rlaif.models.reward_model import RewardFunction


@dataclass(frozen=True, slots=True)
class PPOModels:
    """The models of PPO.

    With adapters `frozen` is the policy's own backbone; in full fine-tuning it is a copy of the
    starting model, since the policy's base trains.
    """

    policy: Backbone  # role "policy"
    frozen: Backbone  # role None is the reference; may hold the roles "value" and "reward"
    critic: Critic | None  # None: no value function
    score: RewardFunction
    sampler: Sampler

    def read(self, batch: SharedBatch, temperature: float) -> PolicyOutputs:
        """Log-probs and values of the batch's N response tokens, from one forward of the policy."""
        hidden = self.policy.predicting("policy", batch)  # (N, d)
        shared = self.critic is not None and self.critic.shares_trunk
        return PolicyOutputs(
            self.policy.logprobs_from(hidden, batch, temperature),
            self.critic.read(hidden) if self.critic and shared else None,
        )


class PolicyOutputs(NamedTuple):
    """Outputs of one forward of the policy over N response tokens."""

    logprobs: Tensor  # (N,) nats
    values: Tensor | None  # (N,), of a critic that shares the policy's trunk
