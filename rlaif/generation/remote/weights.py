"""The trainer's weights as files that workers read, one per version.

    adapter    the LoRA parameters of the role "policy", by name
    files      all weights of the model, with the adapter folded in, named as in a model folder

A file appears whole, under its final name, or not at all. The two newest stay: a worker may still
be asked for the one before while the trainer trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from rlaif.distributed import fsdp
from rlaif.generation.base import SamplingError
from rlaif.generation.remote.protocol import Transport
from rlaif.models.backbone import Backbone
from rlaif.models.folder import save_tensors

KEPT = 2


def write_weights(backbone: Backbone, transport: Transport, version: int, folder: Path) -> Path:
    """Write the policy's present weights; returns the file. A sharded model must be unsharded.

    Raises SamplingError when it cannot be written.
    """
    path = folder / f"weights-{version:06d}.safetensors"
    adapter = transport == "adapter"
    tensors = backbone.role_parameters("policy") if adapter else dict(whole_weights(backbone))
    try:
        save_tensors(tensors, path)
        for old in sorted(folder.glob("weights-*.safetensors"))[:-KEPT]:
            old.unlink()
    except OSError as error:
        raise SamplingError(
            f"{path}: the weights for the rollout workers cannot be written "
            f"({error.strerror or error}); make room, and start the run again"
        ) from error
    return path


def whole_weights(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """As `Backbone.named_weights` of the policy, also inside `unsharded`, where a head that is not
    tied to the embeddings is the only weight that is still cut."""
    for name, tensor in backbone.named_weights("policy"):
        whole = backbone.head_weight.to(tensor.dtype) if fsdp.is_sharded(tensor) else tensor
        yield name, whole.detach()


def forget_weights(folder: Path) -> None:
    """Delete the files of an earlier run."""
    for old in folder.glob("weights-*"):
        old.unlink()
