"""The losses of PPO's policy and value function, of tensors.

    ratio = exp(log π - log π_old)                      of a token (ratio=token)
    ratio = exp(1/|y| Σ_t (log π_t - log π_old,t))      of a response y (ratio=sequence): Eq. 7,
                                                        arXiv:2507.18071
    L_π   = max(-A·ratio, -A·clip(ratio, 1-clip, 1+clip_high))
    L_V   = ½·max((v-R)², (clip(v, v_old±value_clip)-R)²)
    k3    = r - 1 - log r,  r = π_ref / π               with kl_in_loss

(N,) are the response tokens of B rows, one row after the other, so no masks are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.batching.logprobs import kl_k3


def policy_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float, clip_high: float
) -> Tensor:
    """PPO's clipped policy loss, L_π before importance weights; any shape.

    logprobs, old_logprobs: nats, of tokens or the means of responses. clip, clip_high: how far the
    ratio may fall below and rise above 1 and still have a gradient: equal in PPO, apart in DAPO
    ("clip-higher", Eq. 10 of arXiv:2503.14476).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip, 1 + clip_high)
    return torch.maximum(-advantages * ratio, -advantages * clipped)  # Eq. 7, arXiv:1707.06347


class ClippedRatios(NamedTuple):
    """Which ratios are out of their range, bool tensors of the ratios' shape."""

    low: Tensor  # below 1 - clip
    high: Tensor  # above 1 + clip_high


def clipped_ratios(
    logprobs: Tensor, old_logprobs: Tensor, clip: float, clip_high: float
) -> ClippedRatios:
    """Which ratios are out of their range, whatever the sign of the advantage; any shape."""
    ratio = torch.exp(logprobs - old_logprobs)
    return ClippedRatios(ratio < 1 - clip, ratio > 1 + clip_high)


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, value_clip: float) -> Tensor:
    """Clipped squared error of the values per token, L_V; any shape.

    value_clip: range of values around old_values, in units of the score.
    """
    clipped = torch.clamp(values, old_values - value_clip, old_values + value_clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def reference_losses(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(π, reference) per token by estimator k3, nats, with gradient; any shape.

    Used by estimators with kl_in_loss.
    """
    return kl_k3(logprobs, ref_logprobs)  # Eq. 4, arXiv:2402.03300


def row_means(values: Tensor, lengths: Tensor) -> Tensor:
    """The mean over each row's tokens: (N,) → (B,). lengths: (B,) long, tokens of each row, ≥ 1."""
    rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)  # (N,)
    return values.new_zeros(len(lengths)).index_add(0, rows, values) / lengths  # (B,)
