"""Gradient checkpointing: a layer's activations are computed again in the backward pass, not kept.

    kept without it     every activation inside every layer
    kept with it        the input of each layer; while a layer goes backward, its activations

The decoder layers are those that transformers marks for it. transformers' own switch works in
training mode only, which would turn on the dropout that some layers have in their own code; here
the model stays in eval mode, so that log-probs of all passes agree. A layer is computed again under
the role of its forward pass, since another role's may have come in between. A pass without gradient
is left as it is. The same kernels run on the same inputs again, and LoRA's dropout draws the same
masks (torch keeps the state of its generators): on a CPU the gradient is the same to the bit. Under
FSDP a layer is gathered once for its recomputation and its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.models.backbone import Backbone
from rlaif.training.config import TrainConfig, TrainingError


def recompute_layers(backbone: Backbone, config: TrainConfig) -> None:
    """Have a backbone's layers computed again in backward passes, if the settings say so.

    Raises TrainingError for a model whose layers are not marked for it.
    """
    if not config.gradient_checkpointing:
        return
    layers = [m for m in backbone.trunk.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(
            f"{backbone.name}: its class does not support gradient_checkpointing; remove it, and "
            "lower micro_batch_tokens to save memory"
        )
    inside = {id(inner) for layer in layers for inner in list(layer.modules())[1:]}
    for layer in layers:
        if id(layer) not in inside:
            layer.forward = _recomputed(layer.forward, backbone)


def _recomputed(forward: Any, backbone: Backbone) -> Any:
    """A layer's forward whose activations are dropped and computed again."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(backbone.bound_to_role(forward), *args, use_reentrant=False, **kwargs)

    return recomputed
