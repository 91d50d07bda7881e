"""Sampling with transformers, by inverse CDF from the model's own forward.

    token = the first whose cumulated probability is over u        u ~ U[0, 1), one per token

The u of a response come from its own seed, so that a response is the same whoever shares its batch.
Equal prompts are read once, and rows leave the batch as they end.
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
from rlaif.generation.base import FolderModel, Generated, SamplingError, bytes_per_token
from rlaif.models.backbone import Backbone
from rlaif.models.causal_lm import CausalLM, last_hidden


class NextTokenModel(Protocol):
    """What a sampler computes with."""

    model: Any  # of transformers
    dtype: torch.dtype
    device: torch.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Any of these ends a response."""

    def ready(self) -> AbstractContextManager[None]:
        """Inside the block `next_logits` computes with the present weights."""

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """(B, V) float32 after the last of ids (B, t), which `cache` then holds too.

        mask (B, T): 0 on pads, over what the cache held before and ids.
        """


class PolicyModel:
    """The model under training with its role "policy", the adapter folded in while it samples."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.model, self.dtype, self.device = backbone.model, backbone.dtype, backbone.device

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._backbone.eos_ids

    @contextmanager
    def ready(self) -> Iterator[None]:
        with self._backbone.merged("policy"):
            yield

    def next_logits(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        hidden = last_hidden(self._backbone.trunk, self.dtype, ids, mask, cache)  # (B, d)
        return hidden.float() @ self._backbone.head_weight.detach().T  # as logprobs.py has it


class TransformersSampler:
    """A model of this process. There is nothing to sync.

    exact where it computes in float32: in bfloat16 the folding rounds, and so do the kernels that
    add one token to a cache, so that the log-probs are off by up to about 0.1.
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
        pass

    def close(self) -> None:
        pass


def load_model(model: FolderModel) -> CausalLM:
    """The model of a folder, to sample from. Raises SamplingError or BackboneError."""
    loaded = CausalLM.load(model.name, model.tokenizer, model.dtype)
    if not hasattr(loaded.model.config.get_text_config(), "num_attention_heads"):
        raise SamplingError(
            f"engine=transformers cannot sample from a model without attention: {model.name}; "
            "choose engine=vllm"
        )
    return loaded


# ── drawing ──────────────────────────────────────────────────────────────────────────────────


def uniform_numbers(seeds: Sequence[int], count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed, (B, count)."""
    return torch.stack(
        [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def next_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob, both (B,).

    logits (B, V) float32; uniform (B,) in [0, 1). At temperature 0 the most probable token, with
    its log-prob at temperature 1.
    """
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)  # (B, 1)
        return tokens[:, 0], logits.log_softmax(-1).gather(1, tokens)[:, 0]
    scaled = logits / temperature
    return draw_tokens(scaled if top_p == 1 else nucleus(scaled, top_p), uniform)


def draw_tokens(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token per row and its log-prob, both (B,): the first whose cumulated probability is over u.

    logits (B, V) after the temperature; uniform (B,) in [0, 1): one number per token, so that a
    response needs no more of its generator than its own draws.
    """
    log_pi = logits.log_softmax(-1)
    cumulated = log_pi.double().exp().cumsum(-1)  # (B, V)
    threshold = uniform.double()[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(
        cumulated, threshold, right=True
    )  # (B, 1); right: never one of P = 0
    return tokens[:, 0], log_pi.gather(1, tokens)[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The logits (B, V) with -inf outside the fewest most probable tokens that together have
    probability top_p or more (arXiv:1904.09751)."""
    ordered, places = logits.sort(-1, descending=True)
    probs = ordered.softmax(-1)
    outside = probs.cumsum(-1) - probs >= top_p  # those before it suffice; never the first
    return logits.masked_fill(outside.scatter(-1, places, outside), -torch.inf)


class _Drawing:
    """Responses to some prompts, in the making: rows leave the batch as they end."""

    def __init__(self, model: NextTokenModel, prompts: Sequence[Sequence[int]]) -> None:
        """Reads the prompts, equal ones once."""
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
        """A response to each prompt, of at most as many tokens as it has numbers in uniform
        (B, R)."""
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
