"""Reading and atomic writing of model folders and tensor files."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from constitution.errors import UserError
from rlaif.batching.chat import bind_end_ids, end_ids, with_template_kwargs

# Settings by which classes of transformers change W h, and names by which they limit positions.
_SCALED_LOGITS = (
    "final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling",
    "lm_head_multiplier", "output_multiplier",
)  # fmt: skip
_CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
NO_LIMIT = 2**31 - 1  # context of a model that reads any number of tokens


class BackboneError(UserError):
    """A model or adapter that cannot be used; the message has the reason and the remedy."""


def fingerprint(model: Any) -> str:
    """Digest of a model's weights to bfloat16 precision, independent of its folder's location."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        bits = parameter.detach().to(torch.bfloat16).view(torch.int16)
        total = int(bits.sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(parameter.shape)} {total}\n".encode())
    return digest.hexdigest()


def head_obstacle(model: Any) -> str:
    """What a model's logits have besides W h, such as a bias or a cap; "" if nothing."""
    config = model.config.get_text_config()  # nested in that of a model for text and images
    scaled = [key for key in _SCALED_LOGITS if getattr(config, key, None) not in (None, 1.0)]
    head = model.get_output_embeddings()
    if scaled:
        return ", ".join(scaled)
    if head is None:
        return "no head of its own"
    return "" if getattr(head, "bias", None) is None else "a bias in the head"


def refuse_unknown_heads(model: Any, tokenizer: Any, name: str) -> None:
    """Raise BackboneError for logits that are not W h alone, or a tokenizer without end token.

    Those are the models whose log-probs batching/logprobs.py cannot compute. name: for the message.
    """
    if obstacle := head_obstacle(model):
        raise BackboneError(
            f"{name}: unsupported head: logits are not W h alone ({obstacle}); choose another model"
        )
    require_end_token(tokenizer, name)


def require_end_token(tokenizer: Any, name: str) -> None:
    """Raise BackboneError for a tokenizer without end token. name: for the message."""
    if tokenizer.eos_token_id is None:
        raise BackboneError(f"{name}: its tokenizer has no end token; set tokenizer.eos_token")


def refuse_unknown_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Raise BackboneError for a tokenizer with tokens that the model has no embedding of.

    A pad token without one does no harm: rows are padded with id 0, outside every mask.
    """
    known = model.get_input_embeddings().weight.shape[0]
    unknown = {
        token: id
        for token, id in tokenizer.get_vocab().items()
        if id >= known and id != tokenizer.pad_token_id
    }
    if unknown:
        token, id = min(unknown.items(), key=lambda item: item[1])
        raise BackboneError(
            f"{name}: the tokenizer has {len(unknown)} tokens without an embedding, the first is "
            f"{token!r} with id {id} (the model has {known} embeddings); save the model after "
            "resize_token_embeddings, or the tokenizer without them"
        )


def refuse_encoder_decoders(name: str, *, local: bool = False) -> Any:
    """Return a model's config; raise BackboneError for one with an encoder, or where the config
    cannot be read. local: download nothing."""
    with readable_errors(name):
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{name}: an encoder-decoder model ({config.model_type}); choose a decoder-only "
            "language model"
        )
    return config


def read_tokenizer(name: str, *, local: bool = False) -> Any:
    """Load the tokenizer of a folder or hub id; local: download nothing. Raises BackboneError."""
    with readable_errors(name):
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=local)


def trained_tokenizer(name: str, template_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The tokenizer as `Backbone.load` has it, end tokens and template variables included, without
    the model's weights. Raises BackboneError and ChatTemplateError."""
    config, tokenizer = refuse_encoder_decoders(name), read_tokenizer(name)
    require_end_token(tokenizer, name)
    with readable_errors(name):
        try:
            ends = transformers.GenerationConfig.from_pretrained(name)
        except OSError:  # it has none of its own
            ends = transformers.GenerationConfig.from_model_config(config)
    tokenizer = with_template_kwargs(tokenizer, template_kwargs)
    bind_end_ids(tokenizer, end_token_ids(tokenizer, ends))
    return tokenizer


def read_model(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a folder or hub id; the attention is the class's own.

    Raises BackboneError for what is not a causal language model, or cannot be read.
    """
    refuse_encoder_decoders(name)
    tokenizer = read_tokenizer(name)
    with readable_errors(name):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="eager"
        )
    return model, tokenizer


def decoder_of(model: Any) -> Any:
    """The part of a causal language model below its head, which returns hidden states."""
    decoder = model.get_decoder()
    # transformers finds none in some models that are part of a larger one
    return getattr(model, "model", decoder) if decoder is model else decoder


def context_length(config: Any) -> int:
    """Tokens that a model can read, by its config; NO_LIMIT if it sets none, as Mamba and BLOOM."""
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in _CONTEXT_LENGTHS)
    return next((length for length in lengths if isinstance(length, int) and length > 0), NO_LIMIT)


def end_token_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Ids of the tokens that end a response: the chat template's (batching/chat.py), the
    tokenizer's and those of generation_config."""
    also = generation_config.eos_token_id
    others = [] if also is None else also if isinstance(also, list) else [also]
    return end_ids(tokenizer).union(others)


def name_ends(model: Any, tokenizer: Any) -> None:
    """Let generation_config name every token that ends a response (`end_token_ids`), so that vLLM
    and transformers stop at them when they sample from the saved model. In place."""
    config = model.generation_config
    named = config.eos_token_id
    known = [] if named is None else named if isinstance(named, list) else [named]
    ends = [*known, *sorted(end_token_ids(tokenizer, config).difference(known))]
    config.eos_token_id = ends[0] if len(ends) == 1 else ends


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turn the errors of loading `what` into BackboneErrors that name it; hides progress bars."""
    try:
        with without_bars():
            yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BackboneError(
            f"{what}: cannot be loaded: {str(error).splitlines()[0] if str(error) else error!r}; "
            "give a model folder (config.json, *.safetensors, tokenizer) and adapters made for it"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide transformers' progress bars inside the block."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file atomically, from the CPU. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
        partial.replace(path)
    except Exception as error:  # safetensors' own error carries the system's in its text
        partial.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(0, str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a safetensors file, on the CPU. Raises OSError or SafetensorError."""
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write an ordinary model folder in `dtype`; other files in the folder are kept.

    The model's files appear once all are complete. Raises BackboneError if writing fails.
    """
    partial = folder / "model.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        whole = model if model.dtype == dtype else copy.deepcopy(model).to(dtype)
        name_ends(whole, tokenizer)
        with without_bars():
            whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in partial.iterdir():
            file.replace(folder / file.name)
        partial.rmdir()
    except Exception as error:  # safetensors' own error carries the system's in its text
        shutil.rmtree(partial, ignore_errors=True)
        raise BackboneError(
            f"{folder}: the model cannot be saved ({error}); free some space and run again: "
            "training resumes from its last checkpoint"
        ) from error
