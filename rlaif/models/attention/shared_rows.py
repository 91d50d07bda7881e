"""Responses to one prompt in one row: which models keep them apart, and their mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keeps_apart(model: Any, longest: int) -> bool:
    """Whether all layers obey the mask of a shared row, for conversations of this many tokens.

    They do if they have plain attention through transformers' interface: no state, and no window
    that is shorter.
    """
    if not model._supports_attention_backend or model._is_stateful:
        return False
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = not kinds - {"full_attention", "sliding_attention"}
    return plain and not (window and window < longest)


def mask_for(model: Any, attention: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask (B, 1, T, T) as the model's attention reads it: the class's own adds it to logits.

    attention: True where a token is seen. dtype: of the matrix products.
    """
    if model.config._attn_implementation != "eager":
        return attention
    bias = torch.zeros(attention.shape, dtype=dtype, device=attention.device)
    return bias.masked_fill_(~attention, torch.finfo(dtype).min)
