"""Attention for training in bfloat16 on a CPU, where torch's own kernel is slow in backward.

    softmax(scale · q kᵀ + bias) v        bias 0 where attention is allowed, else the least number

Heads that share a key head (grouped queries, arXiv:2305.13245) become rows of one matrix, so keys
and values are never repeated, and all of it is four plain matrix products. The (T, S) weights are
recomputed in backward, so that memory grows with T as torch's kernel's does.
On a GPU, in float32, and for single tokens torch chooses its kernel (scaled_dot_product_attention).

Neither computes more than the equation. A layer that passes more, such as an attention sink or a
cap on the logits, gets an AttentionInputError instead of an attention without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "rlaif"  # attn_implementation of a model that computes its attention here

# Keywords of a layer that both kernels obey, or that change nothing about attention: a sliding
# window is in the mask, positions are in queries and keys, and nothing is dropped in eval mode.
_KNOWN_INPUTS = frozenset(
    {
        "dropout", "is_causal", "position_bias", "sliding_window", "position_ids", "cache_position",
        "use_cache", "output_attentions", "output_hidden_states", "output_router_logits",
    }
)  # fmt: skip


class AttentionInputError(Exception):
    """A layer's attention has an input that is not computed here; the message names it."""


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float
) -> Tensor:
    """Grouped-query attention (arXiv:2305.13245) without repeated keys and values.

    query (B, H, T, D); key (B, K, S, D) and value (B, K, S, E), where K divides H; allowed (B or 1,
    1, T, S) bool; scale multiplies q kᵀ. Returns (B, H, T, E).
    """
    batch, heads, width, size = query.shape
    groups = batch * key.shape[1]
    least = torch.finfo(query.dtype).min  # not -inf: a row without any allowed key stays finite
    # (B or 1, 1, T, S)
    bias = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, least)
    logits = (query * scale).reshape(groups, -1, size) @ key.flatten(0, 1).mT  # (BK, HT/K, S)
    weights = (logits.view(batch, heads, width, -1) + bias).softmax(-1)  # (B, H, T, S)
    mixed = weights.view(groups, -1, weights.shape[-1]) @ value.flatten(0, 1)  # (BK, HT/K, E)
    return mixed.view(batch, heads, width, -1)


def _is_grouped(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
    how: Mapping[str, Any],
) -> bool:  # fmt: skip
    """Whether `grouped_attention` is the faster kernel here, and its mask is all there is to it."""
    width, seen = query.shape[2], key.shape[2]
    slow_in_torch = value.dtype is torch.bfloat16 and value.device.type == "cpu" and width > 1
    if not slow_in_torch or how.get("position_bias") is not None:
        return False
    if mask is not None:
        return mask.dtype is torch.bool
    causal = how.get("is_causal")
    return width == seen and bool(getattr(module, "is_causal", True) if causal is None else causal)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, **how: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Called by transformers in every layer; returns (B, T, H, E)."""
    unknown = sorted({k for k, v in how.items() if v is not None} - _KNOWN_INPUTS)
    if unknown:
        raise AttentionInputError(", ".join(unknown))
    if not _is_grouped(module, query, key, value, attention_mask, how):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **how
        )
        return output
    width = query.shape[2]
    if attention_mask is None:
        attention_mask = torch.ones(1, 1, width, width, dtype=torch.bool).tril_()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast the rotation leaves queries and keys in float32; values have the right dtype.
    inputs = (query.to(value.dtype), key.to(value.dtype), value, attention_mask, scale)
    mixed: Tensor = (
        checkpoint(grouped_attention, *inputs, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else grouped_attention(*inputs)
    )
    return mixed.transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
