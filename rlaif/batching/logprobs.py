"""Log-probabilities of the tokens that count, and the statistics over them.

    logprob     log π(y | x) = z_y - log Σ_v exp z_v,  z = W h / temperature
    kl_k1       r                       r = log π - log ref, of tokens drawn from π
    kl_k3       exp(-r) - 1 + r         (http://joschu.net/blog/kl-approx.html)

The full (B, T, V) tensor of logits never exists: callers select the hidden states of the response
tokens, and the language-model head runs over them in chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # tokens whose logits exist at once: 256 x 49152 x 4 bytes = 50 MB


class _TokenLogprobs(torch.autograd.Function):
    """With one_hot(y) - π = residual (V,), over the temperature t:

        ∂ log π_y / ∂h = Wᵀ residual / t        ∂ log π_y / ∂W = residual hᵀ / t

    The first is one vector per token: it is computed beside the value, while the chunk's logits
    are at hand. The second, where the head trains, is summed over the tokens in backward, whose
    weights g are known only then; each chunk's logits are computed anew for it. So nothing of
    size V outlives its chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, t: float) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        hidden_trains, _, weight_trains, _ = ctx.needs_input_grad
        for h, y in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
            log_pi = _log_softmax(h, weight, t)  # (n, V)
            values.append(log_pi.gather(1, y[:, None])[:, 0])
            if hidden_trains:
                gradients.append((weight[y].float() - log_pi.exp_() @ weight.float()) / t)  # (n, d)
        ctx.dtype, ctx.t = hidden.dtype, t
        ctx.save_for_backward(
            torch.cat(gradients) if hidden_trains else None,
            *((hidden, targets, weight) if weight_trains else (None, None, None)),
        )
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gradient, hidden, targets, weight = ctx.saved_tensors  # (N, d), (N, d), (N,), (V, d)
        of_hidden = of_weight = None
        if gradient is not None:
            of_hidden = (grads[0][:, None] * gradient).to(ctx.dtype)
        if weight is not None:
            of_weight = torch.zeros_like(weight)
            chunks = (torch.split(x, CHUNK) for x in (hidden, targets, grads[0]))
            for h, y, g in zip(*chunks, strict=True):
                weighed = _log_softmax(h, weight, ctx.t).exp_().mul_(-g[:, None])  # (n, V)
                weighed[torch.arange(len(y)), y] += g  # g · residual
                of_weight.addmm_(weighed.T.to(weight.dtype), h.to(weight.dtype), alpha=1 / ctx.t)
        return of_hidden, None, of_weight, None


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden.to(weight.dtype) @ weight.T).float()  # (n, V)
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def token_logprobs(
    hidden: Tensor, targets: Tensor, weight: Tensor, temperature: float = 1.0
) -> Tensor:
    """log π of each target token, float32, differentiable in `hidden` and in `weight`.

    hidden (N, d); targets (N,); weight (V, d), the language-model head. Returns (N,) nats.
    """
    result: Tensor = _TokenLogprobs.apply(hidden, targets, weight, temperature)  # type: ignore[no-untyped-call]
    return result


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries where mask is True. Both (B, T); returns a scalar."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Subtract the mean and divide by the (unbiased) standard deviation over the mask.

    (B, T) each; entries outside the mask come back 0. One counted entry has no variance: it
    comes back 0 as well.
    """
    centered = torch.where(mask, values - masked_mean(values, mask), 0.0)
    variance = centered.square().sum() / (mask.sum() - 1).clamp(min=1)
    return centered * torch.rsqrt(variance + eps)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, of either sign. Any shape, nats."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased and never negative."""
    log_ratio = logprobs - ref_logprobs
    return torch.expm1(-log_ratio) + log_ratio
