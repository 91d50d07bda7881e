"""A causal language model loaded unchanged from its folder, without roles, to sample from.

Logits are W h in float32 over the decoder's hidden states, as training computes them; a model whose
head does more (a bias, scaled or capped logits) computes them itself. Attention is the one that
training uses for the model (attention/check.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hardware.dtypes import Dtype, resolve_dtype
from rlaif.batching.encode import Batch
from rlaif.models.attention.check import examine, obey, response_logprobs_of
from rlaif.models.folder import (
    decoder_of,
    end_token_ids,
    head_obstacle,
    read_model,
    refuse_unknown_tokens,
)


class CausalLM:
    """A model to sample from, as `generation.transformers.NextTokenModel` describes it.

    model: a transformers causal language model. tokenizer: names the end token.
    Example: `CausalLM.load("models/smollm2-135m", tokenizer, "auto")`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)  # eval: no dropout anywhere
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.eos_ids = end_token_ids(tokenizer, model.generation_config)
        self._head: Tensor | None = None  # (V, d)
        if not head_obstacle(model):
            self.trunk = decoder_of(model)
            self._head = model.get_output_embeddings().weight.float()
        name = model.config.name_or_path
        refuse_unknown_tokens(model, tokenizer, name)
        self._fit(tokenizer, name)

    @classmethod
    def load(cls, name: str, tokenizer: Any, dtype: Dtype) -> CausalLM:
        """Load a model folder or hub id, onto the GPU if there is one.

        Raises BackboneError when it cannot be loaded or computed.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, _ = read_model(name, resolve_dtype(dtype))
        return cls(model.to(device), tokenizer)

    def _fit(self, tokenizer: Any, name: str) -> None:
        """Set the attention that training chooses for this model, and leave the logits to its class
        if W h is not all there is to them. Raises BackboneError if its class cannot compute it."""

        def alone(batch: Batch) -> Tensor:
            if self._head is None:
                logits = self.model(input_ids=batch.ids, use_cache=False).logits
            else:
                hidden = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
                logits = hidden.float() @ self._head.T  # (B, T, V)
            return response_logprobs_of(logits, batch)

        outcome = examine(self.model, tokenizer, self.dtype, alone)
        if outcome.refusal and self._head is not None:
            self._head = None
            outcome = examine(self.model, tokenizer, self.dtype, alone)
        obey(outcome, self.model, name)

    def ready(self) -> AbstractContextManager[None]:
        """An empty context: these weights need no preparation before sampling."""
        return nullcontext()

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits of the token after the last of ids: (B, V) float32, without gradient.

        ids (B, t) are added to `cache`; mask (B, T), 0 on pads, covers cached tokens and ids.
        """
        if self._head is not None:
            return last_hidden(self.trunk, self.dtype, ids, mask, cache).float() @ self._head.T
        with torch.no_grad():
            logits: Tensor = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions(ids, mask),
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
        return logits.float()


def positions(ids: Tensor, mask: Tensor) -> Tensor:
    """Positions of ids (B, t), the last columns of mask (B, T), without counting pads: (B, t)."""
    return (mask.cumsum(1)[:, -ids.shape[1] :] - 1).clamp(min=0)


def last_hidden(trunk: Any, dtype: torch.dtype, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
    """Last hidden state at the last of ids: (B, d), without gradient.

    ids (B, t) are added to `cache`; mask (B, T), 0 on pads, covers cached tokens and ids. dtype: of
    matrix products; the weights' own, or bfloat16 over float32 weights.
    """
    mixed = dtype is not trunk.dtype
    with torch.no_grad(), torch.autocast(ids.device.type, dtype, enabled=mixed):
        hidden: Tensor = trunk(
            input_ids=ids, attention_mask=mask, position_ids=positions(ids, mask),
            past_key_values=cache, use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip
    return hidden
