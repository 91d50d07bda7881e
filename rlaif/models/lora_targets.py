"""Which layers get a LoRA adapter: linear layers of the decoder, by name or all of them.

Of a mixture of experts, all-linear leaves alone

    routers       an adapter there changes which experts are asked, abruptly
    the experts   where their weights are one tensor (E, out, in), peft would build all of W + B A
                  anew in every pass, as much memory again as the model

so that attention, shared experts and the dense layers train.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import peft
import torch
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from rlaif.models.folder import BackboneError, decoder_of

ALL_LINEAR = "all-linear"

_ROUTERS = {"router", "gate", "shared_expert_gate"}  # parts of names in transformers' classes

# Mamba's kernels take the weight of out_proj itself and would pass the adapter by: peft refuses it.
_MAMBA_TYPES = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}


class LinearLayers(NamedTuple):
    """The linear layers of a decoder, by their full names in the model."""

    usable: Mapping[str, Any]  # which an adapter can be put on
    default: tuple[str, ...]  # those of all-linear, in the model's order
    note: str  # what all-linear leaves alone; "" if nothing


def linear_layers(model: Any) -> LinearLayers:
    """Find the linear layers that can be adapted, in a model that has no adapters yet."""
    inside = set(decoder_of(model).modules())
    linear = {
        name: module
        for name, module in model.named_modules()
        if module in inside and isinstance(module, torch.nn.Linear | Conv1D)
    }
    renamed = {leaf for leaf in map(_leaf, linear) if not _kept_by_peft(model, leaf)}
    if model.config.model_type in _MAMBA_TYPES:
        renamed.add("out_proj")
    usable = {
        name: layer
        for name, layer in linear.items()
        if _leaf(name) not in renamed
        # some routers only look like a linear layer: they return scores and choices
        and not (_is_router(name) and type(layer) is not torch.nn.Linear)
    }
    default = tuple(name for name in usable if not _is_router(name))
    return LinearLayers(usable, default, _note(model, default, renamed))


def names_of(targets: str | Collection[str]) -> set[str]:
    """The names in lora.targets: a string is one name."""
    return {targets} if isinstance(targets, str) else set(targets)


def chosen_layers(layers: LinearLayers, targets: str | Collection[str], model: str) -> list[str]:
    """Full names of the layers that lora.targets names, in the model's order.

    A target is all-linear, the name of layers, or the end of their full name: q_proj,
    self_attn.q_proj. model: for errors. Raises BackboneError for a name without a layer.
    """
    named = names_of(targets)
    chosen = set(layers.default) if ALL_LINEAR in named else set()
    for target in sorted(named - {ALL_LINEAR}):
        found = {name for name in layers.usable if f".{name}".endswith(f".{target}")}
        if not found:
            raise BackboneError(
                f"{model}: lora.targets: {target!r} is not a linear layer below the language-model "
                f"head that can be adapted; choose from: {_leaves(layers.usable)}"
            )
        chosen |= found
    if not chosen:
        raise BackboneError(
            f"{model}: no linear layer below the language-model head can be adapted; train the "
            "model in full with lora=null"
        )
    return [name for name in layers.usable if name in chosen]


def _is_router(name: str) -> bool:
    return bool(_ROUTERS & set(name.split(".")))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _leaves(names: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(map(_leaf, names)))


def _kept_by_peft(model: Any, leaf: str) -> bool:
    """Whether peft puts an adapter on layers of this name: in some mixtures of experts it takes
    gate_proj, up_proj and down_proj for the experts that had these names before they were fused."""
    config = peft.LoraConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(config, model, conversions=None)
    except ValueError:  # one name of several that are fused
        return False
    return leaf in config.target_modules


def _note(model: Any, default: Collection[str], renamed: Collection[str]) -> str:
    fused = {
        f"{name}.{tensor}".removeprefix(".")
        for name, module in decoder_of(model).named_modules()
        for tensor, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and not isinstance(module, torch.nn.Conv1d)
    }
    if not fused:
        return ""
    also = f" and {', '.join(sorted(renamed))}, which peft takes for theirs" if renamed else ""
    return (
        f"LoRA leaves the routers and the experts' tensors ({_leaves(sorted(fused))}) as they are"
        f"{also}; it trains {_leaves(default)}"
    )
