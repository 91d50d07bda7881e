"""Attention for training in bfloat16 on a CPU, where torch's own kernel is slow in backward.

    softmax(scale · q kᵀ + bias) v        bias 0 where attention is allowed, else the least number

Heads that share a key head (grouped queries, arXiv:2305.13245) become rows of one matrix, so keys
and values are never repeated, and all of it is four plain matrix products. The (T, S) weights are
recomputed in backward, so that memory grows with T as torch's kernel's does.
On a GPU, in float32, and for single tokens torch chooses its kernel (scaled_dot_product_attention).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "rlaif"  # attn_implementation of a model that computes its attention here


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float
) -> Tensor:
    """Grouped-query attention (arXiv:2305.13245) without repeated keys and values.

    query (B, H, T, D); key, value (B, K, S, D), where K divides H; allowed (B or 1, 1, T, S) bool;
    scale multiplies q kᵀ. Returns (B, H, T, D).
    """
    batch, heads, width, size = query.shape
    groups = batch * key.shape[1]
    least = torch.finfo(query.dtype).min  # not -inf: a row without any allowed key stays finite
    # (B or 1, 1, T, S)
    bias = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, least)
    logits = (query * scale).reshape(groups, -1, size) @ key.flatten(0, 1).mT  # (BK, HT/K, S)
    weights = (logits.view(batch, heads, width, -1) + bias).softmax(-1)  # (B, H, T, S)
    return (weights.view(groups, -1, weights.shape[-1]) @ value.flatten(0, 1)).view_as(query)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, **how: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Called by transformers in every layer; returns (B, T, H, D)."""
    width, seen = query.shape[2], key.shape[2]
    ours = value.dtype is torch.bfloat16 and value.device.type == "cpu" and width > 1
    if not ours or (attention_mask is None and width != seen):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **how
        )
        return output
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
