"""Log-probabilities of response tokens, KL estimators, and statistics over a mask.

    logprob     log π(y | x) = z_y - log Σ_v exp z_v,  z = W h / temperature
    kl_k1       r                       r = log π - log ref, of tokens drawn from π
    kl_k3       exp(-r) - 1 + r         (http://joschu.net/blog/kl-approx.html)

The full (B, T, V) logits are never materialized: callers select the hidden states of the response
tokens, and the language-model head is applied to them in chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK = 256  # tokens whose logits are held at once: 256 x 49152 x 4 bytes = 50 MB


class _TokenLogprobs(torch.autograd.Function):
    """log π of target tokens, with a backward pass that holds one chunk of logits at a time.

    With residual = one_hot(y) - π, (V,), and temperature t:

        ∂ log π_y / ∂h = Wᵀ residual / t        ∂ log π_y / ∂W = residual hᵀ / t

    The first is one vector per token and is computed in the forward pass, while the chunk's
    logits exist. The second, needed only if the head trains, is a sum over tokens weighted by the
    incoming gradient g, which is known only in the backward pass; each chunk's logits are
    recomputed for it. So nothing of size V outlives its chunk.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, t: float) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        hidden_trains, _, weight_trains, _ = ctx.needs_input_grad
        for h, y in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            log_pi = _log_softmax(h, weight, t)  # (n, V)
            values.append(log_pi.gather(1, y[:, None])[:, 0])  # (n,)
            if hidden_trains:
                gradients.append((weight[y].float() - log_pi.exp_() @ weight.float()) / t)  # (n, d)
        ctx.dtype, ctx.t = hidden.dtype, t
        ctx.save_for_backward(
            torch.cat(gradients) if hidden_trains else None,
            *((hidden, targets, weight) if weight_trains else (None, None, None)),
        )
        return torch.cat(values)  # (N,)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient, hidden, targets, weight = ctx.saved_tensors  # (N, d), (N, d), (N,), (V, d)
        grad_hidden = grad_weight = None
        if gradient is not None:
            grad_hidden = (grads[0][:, None] * gradient).to(ctx.dtype)  # (N, d)
        if weight is not None:
            grad_weight = torch.zeros_like(weight)  # (V, d)
            chunks = (torch.split(x, CHUNK) for x in (hidden, targets, grads[0]))
            for h, y, g in zip(*chunks, strict=True):
                weighted = _log_softmax(h, weight, ctx.t).exp_().mul_(-g[:, None])  # (n, V)
                weighted[torch.arange(len(y)), y] += g  # g · residual
                grad_weight.addmm_(weighted.T.to(weight.dtype), h.to(weight.dtype), alpha=1 / ctx.t)
        return grad_hidden, None, grad_weight, None


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden.to(weight.dtype) @ weight.T).float()  # (n, V)
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def token_logprobs(
    hidden: Tensor, targets: Tensor, weight: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probs of target tokens, differentiable in `hidden` and `weight`, without (N, V) logits.

    hidden (N, d); targets (N,) long; weight (V, d), the language-model head; temperature divides
    the logits. Returns (N,) float32 nats.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, targets, weight, temperature)  # type: ignore[no-untyped-call]
    return result


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries where mask is True; NaN without any. Both (B, T); returns a scalar."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Normalize to mean 0 and (unbiased) standard deviation 1 over the mask.

    Both (B, T); returns (B, T), 0 outside the mask. A single entry inside the mask becomes 0. eps
    is added to the variance.
    """
    centered = torch.where(mask, values - masked_mean(values, mask), 0.0)  # (B, T)
    variance = centered.square().sum() / (mask.sum() - 1).clamp(min=1)
    return centered * torch.rsqrt(variance + eps)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(π, ref) per token by estimator k1 = log π - log ref: unbiased, of either sign.

    Of tokens drawn from π; any shape, nats.
    """
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(π, ref) per token by estimator k3: unbiased, never negative, of lower variance than k1.

    Of tokens drawn from π; any shape, nats.
    """
    log_ratio = logprobs - ref_logprobs
    return torch.expm1(-log_ratio) + log_ratio


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N,) at the N places where mask (B, T) is True, in a (B, T) tensor of zeros."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)


class ResponseSums(NamedTuple):
    """Summed log-probs and token counts of R responses."""

    logprobs: Tensor  # (R,) nats: log π summed over the response's tokens
    tokens: Tensor  # (R,) tokens summed over
