"""What every advantage estimator takes and returns. Imports no torch: settings read the table."""

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
