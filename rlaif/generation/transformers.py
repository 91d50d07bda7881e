"""Sampling with transformers, by inverse CDF from the model's own forward.

    token = the first whose cumulative probability exceeds u       u ~ U[0, 1), one per token

The u of a response come from its own seed, so that it does not depend on the others in its batch.
Equal prompts are computed once, and rows leave the batch as they end.
Left out: models without attention (pure state-space models), whose caches are of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor

from hardware.memory import GIB
from rlaif.batching.encode import in_groups
from rlaif.generation.base import (
    FolderModel,
    Generated,
    SamplingError,
    bytes_per_token,
    has_attention,
)
from rlaif.models.backbone import Backbone
from rlaif.models.causal_lm import CausalLM, last_hidden


class NextTokenModel(Protocol):
    """A model that gives the next token's logits, over its own or a trained policy's weights."""

    model: Any  # of transformers
    dtype: torch.dtype
    device: torch.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a response."""

    def ready(self) -> AbstractContextManager[None]:
        """Prepare the current weights for `next_logits`, which works inside the block only."""

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits of the token after the last of ids: (B, V) float32, without gradient.

        ids (B, t) are added to `cache`; mask (B, T), 0 on pads, covers cached tokens and ids.
        """


class PolicyModel:
    """The model under training, with its role "policy" folded into the base while it samples."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.model, self.dtype, self.device = backbone.model, backbone.dtype, backbone.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a response, those of the backbone."""
        return self._backbone.eos_ids

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Fold the policy's adapter into the base for the block (`Backbone.merged`)."""
        with self._backbone.merged("policy"):
            yield

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits of the next token, (B, V); the head in float32, as training computes it."""
        hidden = last_hidden(self._backbone.trunk, self.dtype, ids, mask, cache)  # (B, d)
        return hidden.float() @ self._backbone.head_weight.detach().T  # as logprobs.py has it


class TransformersSampler:
    """Samples from a model in this process, by its own forward.

    max_tokens: prompt and response together; with kv_cache_gib (GiB of keys and values) it limits
    the responses drawn at the same time. `exact` in float32 only: in bfloat16 folding the adapter
    and adding single tokens to a cache round, and move log-probs by up to about 0.1 nats.
    """

    def __init__(self, model: NextTokenModel, max_tokens: int, kv_cache_gib: float) -> None:
        self.exact = model.dtype is torch.float32
        self._model = model
        self._rows = max(1, int(kv_cache_gib * GIB / (max_tokens * bytes_per_token(model))))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample as `Sampler.generate`, in batches that fit in the memory of keys and values."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        responses: dict[int, Generated] = {}
        with self._model.ready():
            for group in in_groups(order, self._rows):
                batch = _Drawing(self._model, [prompts[i] for i in group])
                uniform = uniform_numbers([seeds[i] for i in group], max_new_tokens)
                drawn = batch.draw(uniform.to(self._model.device), temperature, top_p)
                responses.update(zip(group, drawn, strict=True))
        return [responses[i] for i in range(len(prompts))]

    def sync(self) -> None:
        """Do nothing: the model's weights are used in place."""

    def close(self) -> None:
        """Do nothing: keys and values are freed after every batch."""


def load_model(model: FolderModel) -> CausalLM:
    """Load the model of a folder, to sample from.

    Raises BackboneError when it cannot be loaded, and SamplingError for one without attention.
    """
    loaded = CausalLM.load(model.name, model.tokenizer, model.dtype)
    if not has_attention(loaded.model.config):
        raise SamplingError(
            f"engine=transformers cannot sample from a model without attention: {model.name}; "
            "choose engine=vllm"
        )
    return loaded


# ── drawing ──────────────────────────────────────────────────────────────────────────────────


def uniform_numbers(seeds: Sequence[int], count: int) -> Tensor:
    """Uniform random numbers in [0, 1) from B seeds: (B, count), on the CPU."""
    return torch.stack(
        [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def next_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Draw the next token of each row; returns (ids, log-probs in nats), both (B,).

    logits (B, V) float32; uniform (B,) in [0, 1). Temperature 0 takes the most probable token, and
    its log-prob at temperature 1.
    """
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)  # (B, 1)
        return tokens[:, 0], logits.log_softmax(-1).gather(1, tokens)[:, 0]
    scaled = logits / temperature
    return draw_tokens(scaled if top_p == 1 else nucleus(scaled, top_p), uniform)


def draw_tokens(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token per row by inverse CDF; returns (ids, log-probs in nats), both (B,).

    logits (B, V) after the temperature; uniform (B,) in [0, 1). The token is the first whose
    cumulative probability exceeds its number.
    """
    log_pi = logits.log_softmax(-1)  # (B, V)
    cumulated = log_pi.double().exp().cumsum(-1)  # (B, V)
    threshold = uniform.double()[:, None] * cumulated[:, -1:]  # (B, 1)
    # (B, 1); right: never a token of probability 0
    tokens = torch.searchsorted(cumulated, threshold, right=True)
    return tokens[:, 0], log_pi.gather(1, tokens)[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Set logits to -inf outside the nucleus (arXiv:1904.09751): (B, V) → (B, V).

    The nucleus is the smallest set of most probable tokens with probability top_p or more.
    """
    ordered, places = logits.sort(-1, descending=True)  # (B, V) each
    probs = ordered.softmax(-1)  # (B, V)
    outside = probs.cumsum(-1) - probs >= top_p  # (B, V) those before suffice; never the first
    return logits.masked_fill(outside.scatter(-1, places, outside), -torch.inf)


class _Drawing:
    """A batch of responses being drawn: rows leave it as they end."""

    def __init__(self, model: NextTokenModel, prompts: Sequence[Sequence[int]]) -> None:
        """Compute the prompts, equal ones once."""
        self._model = model
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        width = max(map(len, distinct))
        ids = torch.tensor([[*([0] * (width - len(p))), *p] for p in distinct])
        mask = torch.tensor([[*([0] * (width - len(p))), *([1] * len(p))] for p in distinct])
        ids, self._mask = ids.to(model.device), mask.to(model.device)  # (P, T), pads on the left
        self._cache = transformers.DynamicCache(config=model.model.config)
        self._logits = model.next_logits(ids, self._mask, self._cache)  # (P, V)
        place = {prompt: row for row, prompt in enumerate(distinct)}
        rows = [place[tuple(prompt)] for prompt in prompts]
        self._keep(rows)
        self._logits = self._logits[rows]  # (B, V)

    def draw(self, uniform: Tensor, temperature: float, top_p: float) -> list[Generated]:
        """Draw a response to each of the B prompts, of at most R tokens. uniform: (B, R)."""
        count, most = uniform.shape
        ids: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        complete = [False] * count
        rows = list(range(count))  # whose response each row of the batch is
        # One number of each response's own per token, so that no row's draws depend on the others.
        for at in range(most):
            tokens, values = next_tokens(self._logits, uniform[rows, at], temperature, top_p)
            for row, token, value in zip(rows, tokens.tolist(), values.tolist(), strict=True):
                ids[row].append(token)
                logprobs[row].append(value)
                complete[row] = token in self._model.eos_ids
            going = [i for i, row in enumerate(rows) if not complete[row]]
            if not going or at + 1 == most:
                break
            # Ended rows are computed no further; the others' tokens join the cache.
            if len(going) < len(rows):
                self._keep(going)
                tokens, rows = tokens[going], [rows[i] for i in going]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], dim=1)
            self._logits = self._model.next_logits(tokens[:, None], self._mask, self._cache)
        return [Generated(*each) for each in zip(ids, logprobs, complete, strict=True)]

    def _keep(self, rows: Sequence[int]) -> None:
        """Only these rows, in this order; a row may be taken several times."""
        chosen = torch.tensor(rows, device=self._model.device)
        # reorder_cache and not batch_select_indices, which layers of linear attention lack
        self._cache.reorder_cache(chosen)
        self._mask = self._mask[chosen]
