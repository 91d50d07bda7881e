"""Reads and writes model folders and tensor files, each complete or unchanged."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from constitution.errors import UserError

_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class BackboneError(UserError):
    """A model or adapter that cannot be used: which, why, and what to do."""


def fingerprint(model: Any) -> str:
    """A digest of a model's weights to bfloat16 precision, independent of where its folder lies."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        bits = parameter.detach().to(torch.bfloat16).view(torch.int16)
        total = int(bits.sum(dtype=torch.int64))
        digest.update(f"{name} {tuple(parameter.shape)} {total}\n".encode())
    return digest.hexdigest()


def head_obstacle(model: Any) -> str:
    """What a model's logits are beside W h; empty where they are that alone."""
    scaled = [key for key in _SCALED_LOGITS if getattr(model.config, key, None) not in (None, 1.0)]
    head = model.get_output_embeddings()
    if scaled:
        return ", ".join(scaled)
    if head is None:
        return "no head of its own"
    return "" if getattr(head, "bias", None) is None else "a bias in the head"


def refuse_unknown_heads(model: Any, tokenizer: Any, name: str) -> None:
    """Raises BackboneError for a model whose log-probs logprobs.py does not compute."""
    if obstacle := head_obstacle(model):
        raise BackboneError(
            f"{name}: unsupported head: logits are not W h alone ({obstacle}); choose another model"
        )
    if tokenizer.eos_token_id is None:
        raise BackboneError(f"{name}: its tokenizer has no end token; set tokenizer.eos_token")


def end_token_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Any of these ends a response: the tokenizer's end token, and those of generation_config."""
    also = generation_config.eos_token_id
    listed = [] if also is None else also if isinstance(also, list) else [also]
    own = tokenizer.eos_token_id
    return frozenset([*listed, *([] if own is None else [own])])


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turns whatever loading raises into a BackboneError that names `what`."""
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
    """Hides the progress bars that transformers shows for a second's work."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, whole or as it was before. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
        partial.replace(path)
    except Exception as error:  # safetensors' own error carries the system's in its text
        partial.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(0, str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """An ordinary model folder in `dtype`, beside whatever else the folder holds.

    Written under another name first: its files appear only when all are complete. Raises
    BackboneError.
    """
    partial = folder / "model.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        whole = model if model.dtype == dtype else copy.deepcopy(model).to(dtype)
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
