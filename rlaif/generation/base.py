"""What every sampler offers and returns. Imports no torch.

    sync()                         the sampler takes over the model's present weights
    generate(prompts, …, seeds)    one response per prompt, drawn from softmax(logits / T)

With top_p = 1 nothing cuts the distribution (top_k is off), and the log-probs are those of what was
drawn from: log softmax(logits / T). Each response has its own seed, so that it is the same whoever
is sampled beside it, as far as floating-point sums in batches of other shapes allow.

    transformers    the trainer's own forward (`exact`: its log-probs may stand as old_logprobs)
    vLLM            its kernels round otherwise, so that exp(log π_trainer - log π_sampler) is near
                    1 and not 1: the trainer's log-probs are computed again, and the ratio weighs
                    the response

Both keep the keys and values of at most `kv_cache_gib` GiB at a time; vLLM on a CPU takes all of it
when it starts, so ask for no more than `kv_cache_needed`.
Left out: engines in other processes or on other GPUs (see docs/distributed.md for their recipe).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from constitution.errors import UserError
from hardware import vllm_cpu
from hardware.dtypes import Dtype
from hardware.memory import GIB

if TYPE_CHECKING:
    import torch


class SamplingError(UserError):
    """Sampling that cannot start or continue: the engine or prompt, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled response: ids (end token included if it came), and log π of each when drawn."""

    ids: list[int]
    logprobs: list[float]
    complete: bool


class Sampler(Protocol):
    """Responses of a model. `exact`: the log-probs are the trainer's own."""

    exact: bool

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """One response per prompt, in order, each from its own seed.

        temperature 0: the most probable token at every place. top_p: each token is drawn from the
        most probable ones that together have this probability; the log-probs are of that.
        """

    def sync(self) -> None:
        """Take over the model's present weights and forget what was cached of earlier ones; called
        before the first `generate` of each iteration or chunk."""

    def close(self) -> None:
        """Give the memory back. Harmless when done twice."""


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model to sample from, loaded unchanged from its folder or hub id.

    max_tokens: prompt and response together. sequences: responses wanted at the same time.
    """

    name: str
    tokenizer: Any
    dtype: Dtype
    max_tokens: int
    kv_cache_gib: float
    sequences: int


class SizedModel(Protocol):
    """A model whose keys and values can be measured."""

    model: Any  # of transformers
    dtype: torch.dtype  # of its keys and values


def response_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of one response: 63 bits, a pure function of its three arguments."""
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def training_processes() -> int:
    """Number of processes in this training's process group; 0 without one."""
    import torch.distributed

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_world_size()


def bytes_per_token(model: SizedModel) -> int:
    """Memory of one token's keys and values in all layers."""
    config = model.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def kv_cache_needed(model: SizedModel, responses: int, tokens: int) -> float:
    """GiB of keys and values of `responses` at once, of `tokens` each with their prompt."""
    blocks = responses * -(-tokens // vllm_cpu.BLOCK_TOKENS) + 1  # vLLM keeps one for itself
    return blocks * vllm_cpu.BLOCK_TOKENS * bytes_per_token(model) / GIB
