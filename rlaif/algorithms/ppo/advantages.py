"""Advantages: how much better than expected each token of a response was, by three estimators.

    gae     r_t = -kl_coef·k1_t,  r_T += score      k1_t = log π_old - log π_ref
            δ_t = r_t + gamma·V_{t+1} - V_t         Eq. 12, arXiv:1506.02438
            A_t = δ_t + gamma·λ·A_{t+1}             Eq. 16; V and A after the end are 0
            R_t = A_t + V_t                         before A is whitened (whiten)
    rloo    R   = score - kl_coef·Σ_t k1_t          of the whole response: one action
            A_i = R_i - (1/(n-1)) Σ_{j≠i} R_j       the RLOO estimator of arXiv:2402.14740; the same
                                                    for each token of response i
    grpo    A_i = (s_i - mean s) / std s            section 4.1.2, arXiv:2402.03300; over the group,
                                                    the same for each token

    k1, values, mask          (B, R): R tokens of the longest response, mask True on the real ones
    scores                    (B,) of whole responses, their penalties taken off
    groups                    (B,) a number per prompt; the n responses of one are a group

The KL is where each paper has it: inside the reward for gae (arXiv:2203.02155) and rloo, in the
loss for grpo (k3 with a gradient, Eq. 4 there), so grpo's advantages are made of scores alone.
std is the unbiased one, with 1e-4 added. A response alone in its group (the others had no score)
cannot be compared: its advantage is 0, as are those of a group with equal scores.
Left out: whitening of rloo's and grpo's advantages, which neither paper does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_EPS = 1e-4  # added to a group's std, in scores


@dataclass(frozen=True, slots=True)
class GAEAdvantages:
    advantages: Tensor  # (B, R), not whitened, 0 outside the mask
    returns: Tensor  # (B, R), advantages + values


def token_rewards(k1: Tensor, scores: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """r_t above, (B, R). k1 and mask (B, R), the mask a run of True per row; scores (B,)."""
    rewards = torch.where(mask, -kl_coef * k1, 0.0)
    return rewards.scatter_add(1, last_places(mask)[:, None], scores[:, None].to(rewards.dtype))


def last_places(mask: Tensor) -> Tensor:
    """Place of each row's last True: (B, R) → (B,)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(dim=1)


def response_rewards(k1: Tensor, scores: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """R of rloo above: the reward of the whole response, (B,)."""
    return scores - kl_coef * torch.where(mask, k1, 0.0).sum(dim=1)


def gae_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> GAEAdvantages:
    """GAE backwards over the response tokens. All (B, R); the mask is a run of True per row."""
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # Eq. 12, arXiv:1506.02438
        advantage = delta + gamma * gae_lambda * next_advantage  # Eq. 16
        next_advantage = torch.where(mask[:, t], advantage, 0.0)
        advantages[:, t], next_value = next_advantage, values[:, t]
    return GAEAdvantages(advantages, advantages + values)


def rloo_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """rloo above: each reward less the mean of its group's others. All (B,)."""
    count, total = _group_sums(rewards, groups)
    others = (total - rewards) / (count - 1).clamp(min=1)  # arXiv:2402.14740
    return torch.where(count > 1, rewards - others, 0.0)


def grpo_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """grpo above: each score in standard deviations off its group's mean. All (B,)."""
    count, total = _group_sums(scores, groups)
    centered = torch.where(count > 1, scores - total / count, 0.0)
    squares = _group_sums(centered.square(), groups)[1]
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return centered / (std + GROUP_EPS)  # section 4.1.2, arXiv:2402.03300


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Size and sum of each entry's group: (B,), (B,)."""
    zeros = values.new_zeros(int(groups.max()) + 1)
    count = zeros.index_add(0, groups, torch.ones_like(values))
    total = zeros.index_add(0, groups, values)
    return count[groups], total[groups]


def on_every_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """The advantage of a response on each of its tokens: (B,), (B, R) → (B, R), 0 outside."""
    return torch.where(mask, advantages[:, None], 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over the mask; 0 where all returns are equal. All (B, R)."""
    residual, target = (returns - values)[mask], returns[mask]
    variance = target.var(correction=0)
    return 0.0 if variance == 0 else float(1 - residual.var(correction=0) / variance)
