"""Adapters folded into the weights they adapt: W + s B A (arXiv:2106.09685), s = alpha / rank
(or alpha / √rank, where the adapter was trained with rslora).

In memory for the length of a block, as a stream of tensors for a sampler, or as a model folder.
The sum is computed in float32, then rounded to the base's dtype. Over a float32 base the log-probs
stay within 1e-5. Over a bfloat16 one they move by about 0.04 nats per token (SmolLM2-135M), as much
as bfloat16 itself differs from float32, and no further from float32's: an equally good policy, but
not bit for bit the one under training.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers.core_model_loading import WeightConverter, revert_weight_conversion

from rlaif.models.folder import BackboneError, name_ends, readable_errors, without_bars
from rlaif.models.lora_config import TrainDtype


def adapted_layers(model: Any, adapter: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, layer) of all layers that `adapter` changes in a model wrapped by peft."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and adapter in {
            **module.lora_A,
            **module.lora_embedding_A,
        }:
            yield name, module


@torch.no_grad()
def folded_weight(layer: Any, adapter: str) -> Tensor:
    """W + s B A of one linear layer: a new tensor (out, in), in the dtype of W."""
    weight: Tensor = layer.get_base_layer().weight
    delta: Tensor = layer.get_delta_weight(adapter)
    return (weight.float() + delta.float()).to(weight.dtype)


@contextmanager
def folded_in(model: Any, adapter: str) -> Iterator[None]:
    """Fold an adapter into the base's weights inside the block; restores the tensors afterwards.

    Needs memory for a second copy of the adapted weights. The caller must deactivate the adapters
    inside the block, or they are applied twice.
    """
    before: list[tuple[torch.nn.Parameter, Tensor]] = []
    try:
        for _, layer in adapted_layers(model, adapter):
            parameter = layer.get_base_layer().weight
            folded = folded_weight(layer, adapter)
            before.append((parameter, parameter.data))
            parameter.data = folded
        yield
    finally:
        for parameter, original in before:
            parameter.data = original


def folded_weights(model: Any, adapter: str | None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of the whole model, as a model folder has them, one at a time.

    adapter: folded in; None for the bare base. Tied weights are yielded once. Raises BackboneError
    for a model whose folder holds its weights in other shapes.
    """
    conversions = getattr(model, "_weight_conversions", None) or []
    if any(isinstance(each, WeightConverter) for each in conversions):
        raise BackboneError(
            f"{model.config.name_or_path}: its weights are laid out otherwise in memory than in "
            "its folder, so they cannot be handed to a sampler; sample with engine=transformers"
        )
    adapted = {} if adapter is None else dict(adapted_layers(model, adapter))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        layer = adapted.get(name.removesuffix(".base_layer.weight"))
        tensor = parameter.detach() if layer is None else folded_weight(layer, str(adapter))
        named = {name.replace(".base_layer.", "."): tensor}
        yield from (revert_weight_conversion(model, named) if conversions else named).items()


def merge_adapter(model: str, adapter: Path, out: Path, dtype: TrainDtype = "auto") -> Path:
    """Write the base with the adapter folded in as an ordinary model folder; returns `out`.

    Computed in float32 and saved in `dtype`; auto: the base's own. bfloat16 rounds away updates
    smaller than 1 part in 256. `out` is replaced once the folder is complete. Raises BackboneError
    when base or adapter cannot be loaded, or `out` cannot be written.
    """
    with readable_errors(model):
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    saved = base.dtype if dtype == "auto" else getattr(torch, dtype)
    with readable_errors(str(adapter)):
        merged = peft.PeftModel.from_pretrained(base.float(), adapter).merge_and_unload().to(saved)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        name_ends(merged, tokenizer)
        with without_bars():
            merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackboneError(f"{out}: the merged model cannot be saved ({error})") from error
    return out
