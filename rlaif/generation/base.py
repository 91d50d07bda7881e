"""The sampler protocol and its result. Imports no torch.

    sync()                         the sampler takes over the model's current weights
    generate(prompts, …, seeds)    one response per prompt, drawn from softmax(logits / T)

With top_p = 1 the distribution is not truncated (top_k is off), and the log-probs are those of the
distribution drawn from: log softmax(logits / T). Each response has its own seed, so that it does
not depend on the others in its batch, as far as floating-point sums in other batch shapes allow.

    transformers    the trainer's own forward (`exact`: its log-probs may serve as old_logprobs)
    vLLM            its kernels round differently, so that exp(log π_trainer - log π_sampler) is
                    near 1 and not 1: the trainer's log-probs are computed again, and the ratio
                    weighs the response

Both keep the keys and values of at most `kv_cache_gib` GiB at a time; vLLM on a CPU takes all of it
when it starts, so ask for no more than `kv_cache_needed`.
Samplers in other processes, and on other GPUs, are in remote/.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from constitution.errors import UserError
from hardware import vllm_cpu
from hardware.dtypes import Dtype
from hardware.memory import GIB
from rlaif.data.cut_off import ResponseText
from rlaif.data.records import Prompt

if TYPE_CHECKING:
    import torch


# Model types of transformers without attention: recurrent states in place of keys and values.
WITHOUT_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})


class SamplingError(UserError):
    """Sampling that cannot start or continue; the message has the reason and the remedy."""


@contextmanager
def naming_prompts(given: Any, prompts: Sequence[Prompt]) -> Iterator[None]:
    """Put the file before a SamplingError that names one of its prompts; such errors come as text
    from a sampler's own process. given: what the caller gave; only a path names a file."""
    try:
        yield
    except SamplingError as error:
        names = [f"prompt {prompt.id}{after}" for prompt in prompts for after in (":", " ")]
        named = any(name in str(error) for name in names)
        if not (named and isinstance(given, str | os.PathLike)):
            raise
        raise SamplingError(f"{os.fspath(given)}: {error}") from error


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled response."""

    ids: list[int]  # with the end token if it is complete
    logprobs: list[float]  # of each token, in the distribution it was drawn from; nats
    complete: bool  # ended by an end token, not by max_new_tokens
    version: int = 0  # of the weights that drew it, where samplers in other processes count them

    @property
    def text_ids(self) -> list[int]:
        """The ids without the end token, which not every tokenizer counts as a special one."""
        return self.ids[:-1] if self.complete else self.ids


def response_text(tokenizer: Any, drawn: Generated) -> ResponseText:
    """The text of a response, without its end token, and how it ended."""
    text = tokenizer.decode(drawn.text_ids, skip_special_tokens=True)
    end = tokenizer.convert_ids_to_tokens(drawn.ids[-1]) if drawn.complete else ""
    return ResponseText(text, drawn.complete, end)


class Sampler(Protocol):
    """Samples responses of one model."""

    exact: bool  # whether its log-probs are those of the trainer's own forward

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[Generated]:
        """Sample one response per prompt (token ids), in order, each from its own seed.

        max_new_tokens: end token included. temperature: 0 takes the most probable token each time.
        top_p: draw from the most probable tokens that together have this probability
        (arXiv:1904.09751); the log-probs are those of this distribution.
        """

    def sync(self) -> None:
        """Take over the model's current weights, and drop caches made from earlier ones.

        Must be called before the first `generate` of each iteration or chunk.
        """

    def close(self) -> None:
        """Free the memory; may be called again."""


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model to sample from, loaded unchanged from its folder or hub id."""

    name: str  # folder or hub id
    tokenizer: Any  # of transformers
    dtype: Dtype  # of the weights
    max_tokens: int  # longest conversation, prompt and response together
    kv_cache_gib: float  # most GiB of keys and values
    sequences: int  # responses to draw at the same time
    context: int = sys.maxsize  # tokens that the model reads; max_tokens is at most that


class SizedModel(Protocol):
    """A model whose memory of keys and values can be computed."""

    model: Any  # of transformers
    dtype: torch.dtype  # of its keys and values


def has_attention(config: Any) -> bool:
    """Whether a loaded model has keys and values to sample with. config: of transformers."""
    return hasattr(config.get_text_config(), "num_attention_heads")


def require_attention(config: Any, name: str) -> None:
    """Raises SamplingError for a policy that PPO and ReST cannot sample from: `has_attention`."""
    if not has_attention(config):
        raise _without_attention(name)


def require_attention_of(model: str) -> None:
    """As `require_attention`, by the config.json of a model folder; a hub id, or a type that is not
    in WITHOUT_ATTENTION, is checked once it is loaded."""
    try:
        found = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if found.get("text_config", found).get("model_type") in WITHOUT_ATTENTION:
        raise _without_attention(model)


def _without_attention(name: str) -> SamplingError:
    return SamplingError(
        f"PPO and ReST cannot sample from a model without attention: {name}; train it with dpo, "
        "or give a model with attention"
    )


def response_seed(seed: int, prompt_id: str, index: int) -> int:
    """Seed of one response (63 bits), a digest of its arguments.

    seed: of the run; index: among the responses to one prompt.
    """
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def training_processes() -> int:
    """Number of processes in torch.distributed's group; 0 if it is not initialized."""
    import torch.distributed

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_world_size()


def bytes_per_token(model: SizedModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    config = model.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def kv_cache_needed(model: SizedModel, responses: int, tokens: int) -> float:
    """GiB of keys and values of `responses` at once, each of `tokens` with its prompt."""
    blocks = responses * -(-tokens // vllm_cpu.BLOCK_TOKENS) + 1  # vLLM keeps one for itself
    return blocks * vllm_cpu.BLOCK_TOKENS * bytes_per_token(model) / GIB
