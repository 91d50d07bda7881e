"""Advantage estimators: how much better than expected each token of a response was.

    gae     r_t = -kl_coef·k1_t,  r_T += score      k1_t = log π_old - log π_ref
            δ_t = r_t + gamma·V_{t+1} - V_t         Eq. 12, arXiv:1506.02438
            A_t = δ_t + gamma·λ·A_{t+1}             Eq. 16; V and A after the end are 0
            R_t = A_t + V_t                         before A is whitened (whiten)
    rloo    R   = score - kl_coef·Σ_t k1_t          of the whole response: one action
            A_i = R_i - (1/(n-1)) Σ_{j≠i} R_j       the RLOO estimator of arXiv:2402.14740; the same
                                                    for each token of response i
    grpo    A_i = (s_i - mean s) / std s            section 4.1.2, arXiv:2402.03300; over the group,
                                                    the same for each token
    dr_grpo A_i = s_i - mean s                      arXiv:2503.20783: division by std favors prompts
                                                    that are nearly always or never solved

    k1, values, mask          (B, R): R tokens of the longest response, mask True on the real ones
    scores                    (B,) of whole responses, their penalties taken off
    groups                    (B,) a number per prompt; the n responses of one are a group

The KL is where each paper has it: inside the reward for gae (arXiv:2203.02155) and rloo, in the
loss for grpo and dr_grpo (k3 with a gradient, Eq. 4 of grpo's; Dr. GRPO itself has none, which is
kl_coef=0), so their advantages are made of scores alone.
std is the unbiased one, with 1e-4 added. A response alone in its group (the others had no score)
cannot be compared: its advantage is 0, as are those of a group with equal scores.
Left out: whitening of the group estimators' advantages, which no paper of theirs does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_EPS = 1e-4  # added to a group's std, in scores


@dataclass(frozen=True, slots=True)
class GAEAdvantages:
    """Advantages by GAE, and the returns that the value function is trained on."""

    advantages: Tensor  # (B, R), not whitened, 0 outside the mask
    returns: Tensor  # (B, R), advantages + values


def token_rewards(k1: Tensor, scores: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token, r_t of gae: the KL penalty, plus the score at the last token.

    k1 (B, R) nats; scores (B,); mask (B, R), True on a prefix of each row; kl_coef: score per nat.
    Returns (B, R), 0 outside the mask.
    """
    rewards = torch.where(mask, -kl_coef * k1, 0.0)  # (B, R)
    return rewards.scatter_add(1, last_places(mask)[:, None], scores[:, None].to(rewards.dtype))


def last_places(mask: Tensor) -> Tensor:
    """Index of each row's last True, -1 without any: (B, R) → (B,)."""
    places = torch.arange(mask.shape[1], device=mask.device)  # (R,)
    return torch.where(mask, places, -1).amax(dim=1)


def response_rewards(k1: Tensor, scores: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each whole response, R of rloo: its score less kl_coef times its summed k1.

    k1, mask (B, R); scores (B,). Returns (B,).
    """
    return scores - kl_coef * torch.where(mask, k1, 0.0).sum(dim=1)


def gae_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> GAEAdvantages:
    """Generalized advantage estimation (arXiv:1506.02438), from the last token backwards.

    rewards, values, mask (B, R), the mask True on a prefix of each row; values outside it are
    ignored.
    """
    values = torch.where(mask, values, 0.0)  # (B, R)
    advantages = torch.zeros_like(values)  # (B, R)
    next_advantage = next_value = torch.zeros_like(values[:, 0])  # (B,) each
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,) Eq. 12, arXiv:1506.02438
        advantage = delta + gamma * gae_lambda * next_advantage  # (B,) Eq. 16
        next_advantage = torch.where(mask[:, t], advantage, 0.0)  # (B,)
        advantages[:, t], next_value = next_advantage, values[:, t]
    return GAEAdvantages(advantages, advantages + values)


def rloo_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """RLOO: each reward less the mean of the others in its group; 0 in a group of one. All (B,)."""
    count, total = _group_sums(rewards, groups)  # (B,) each
    others = (total - rewards) / (count - 1).clamp(min=1)  # (B,) arXiv:2402.14740
    return torch.where(count > 1, rewards - others, 0.0)


def grpo_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """GRPO: each score's distance from its group's mean in (unbiased) standard deviations.

    0 for a group of one. All (B,).
    """
    centered = centered_advantages(scores, groups)  # (B,)
    count, squares = _group_sums(centered.square(), groups)  # (B,) each
    std = (squares / (count - 1).clamp(min=1)).sqrt()  # (B,)
    return centered / (std + GROUP_EPS)  # section 4.1.2, arXiv:2402.03300


def centered_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """Dr. GRPO: each score's distance from its group's mean (arXiv:2503.20783); 0 in a group of
    one. All (B,)."""
    count, total = _group_sums(scores, groups)  # (B,) each
    return torch.where(count > 1, scores - total / count, 0.0)


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Size and sum of each entry's group: (B,), (B,)."""
    zeros = values.new_zeros(int(groups.max()) + 1)  # (number of groups,)
    count = zeros.index_add(0, groups, torch.ones_like(values))
    total = zeros.index_add(0, groups, values)
    return count[groups], total[groups]


def on_every_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """Broadcast each response's advantage to its tokens: (B,), (B, R) → (B, R), 0 outside."""
    return torch.where(mask, advantages[:, None], 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the returns' variance that the values explain, 1 - Var(R - V) / Var(R).

    All (B, R); over the mask. 0 when all returns are equal.
    """
    residual, target = (returns - values)[mask], returns[mask]  # (N,) each
    variance = target.var(correction=0)
    return 0.0 if variance == 0 else float(1 - residual.var(correction=0) / variance)
