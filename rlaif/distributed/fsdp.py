"""FSDP2: a base model's weights, gradients and AdamW moments, sharded over a launch's processes.

    unit                                   gathered by              its gradient
    each decoder layer, the embeddings,    FSDP2's hooks around     reduce-scattered in backward
    the last norm                          forward and backward
    the language-model head (may be tied   `full_tensor`, at each   by `full_tensor`'s backward
    to the embeddings' weight)             use
    adapters, a reward model's heads       nothing: replicated in   ProcessGroup.
                                           each process             all_reduce_gradients

Gradients are summed, not averaged (processes.py says why). Every forward and every backward pass is
then collective: a process that has no rows left computes a batch of zero rows
(ProcessGroup.pad_batches). Sampling cannot run in lockstep, because responses end at different
times: while a process samples, every unit stays gathered (`unsharded`). The optimizer works on each
process's own shard (`local`), so neither it nor the gradient norm needs to know about sharding; a
checkpoint holds full tensors, gathered one at a time.

Left out: weights offloaded to the CPU, a second dimension of replicas (HSDP), sampling from a model
that does not fit on one GPU.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from constitution.errors import UserError

# FSDP settings, most of which this module ignores: variable → (accepted values, remedy)
_ACCEPTED_SETTINGS = {
    "FSDP_VERSION": (("2",), "launch with --fsdp_version 2 (version 1 is superseded by it)"),
    "FSDP_RESHARD_AFTER_FORWARD": (("true", "false"), "FSDP2 accepts true or false"),
    "FSDP_AUTO_WRAP_POLICY": (
        ("transformer_based_wrap",),
        "every decoder layer is a unit: use TRANSFORMER_BASED_WRAP, or leave it unset",
    ),
    "FSDP_STATE_DICT_TYPE": (
        ("full_state_dict",),
        "checkpoints hold full tensors, so that any number of processes can resume from them: "
        "use FULL_STATE_DICT, or leave it unset",
    ),
    "FSDP_OFFLOAD_PARAMS": (("false",), "set it to false, and launch more processes"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        ("false",),
        "set it to false; the trainer's setting gradient_checkpointing=true does it",
    ),
    "FSDP_FORWARD_PREFETCH": (("false",), "set it to false"),
    "FSDP_IGNORED_MODULES": (("",), "remove it"),
}

# Set by the launcher and read by transformers: read a model in one process per host only.
_RAM_EFFICIENT = "FSDP_CPU_RAM_EFFICIENT_LOADING"
_DEFERRED = "RLAIF_READ_ONCE"  # its value, moved here outside `ram_efficient_loading`

_kept_gathered: WeakSet[nn.Module] = WeakSet()  # decoders inside `unsharded`


class ShardingError(UserError):
    """A sharded launch or model that cannot work; the message has the reason and the remedy."""


def is_requested() -> bool:
    """Whether `accelerate launch` requested FSDP for several processes.

    Raises ShardingError for FSDP settings that would have no effect.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    for name, (accepted, remedy) in _ACCEPTED_SETTINGS.items():
        value = os.environ.get(name, "1" if name == "FSDP_VERSION" else accepted[0])
        if value.lower() not in accepted:
            raise ShardingError(f"{name}={value} (set by accelerate) has no effect here; {remedy}")
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def defer_ram_efficient_loading() -> None:
    """Limit the launcher's setting "read a model once per host" to `ram_efficient_loading`.

    A model that a reward function loads itself is never sharded; with the setting in force it
    would be all zeros in the other processes.
    """
    if _RAM_EFFICIENT in os.environ:
        os.environ[_DEFERRED] = os.environ.pop(_RAM_EFFICIENT)


@contextmanager
def ram_efficient_loading() -> Iterator[None]:
    """Let transformers read models in one process per host inside the block, if launched so.

    The other processes get the weights from `shard`, which broadcasts them.
    """
    os.environ[_RAM_EFFICIENT] = os.environ.get(_DEFERRED, "false")
    try:
        yield
    finally:
        del os.environ[_RAM_EFFICIENT]


def shard(model: Any, replicated: Collection[nn.Parameter], compute_dtype: torch.dtype) -> None:
    """Shard a transformers model in place: its named_parameters become DTensors.

    All processes get the main process's weights, on their own device. replicated: parameters that
    each process keeps in full. compute_dtype: of the layers' matrix products. Raises ShardingError
    for a model whose decoder layers cannot be identified.
    """
    from accelerate import PartialState
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    state = PartialState()
    mesh = init_device_mesh(state.device.type, (state.num_processes,))
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embeddings.weight
    trunk, layers = model.get_decoder(), _layers(model)
    # Layers are gathered in their compute dtype: a copy cast by autocast would outlive the layer.
    # Inputs and outputs keep their dtype, so that the residual stream does too.
    mixed = MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False)
    for unit in [*layers, embeddings, *([] if tied else [head]), trunk]:
        _broadcast_from_main([*unit.parameters(), *unit.buffers()], state.device)
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=_reshard(),
            mp_policy=mixed if unit in layers else MixedPrecisionPolicy(),
            ignored_params=set(replicated),
        )
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # else a scaled sum, which gloo lacks
    if tied:
        head.weight = embeddings.weight
    if not _reshard():  # no backward pass follows to free what a pass without gradient gathered
        trunk.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else _free(trunk))


@contextmanager
def unsharded(trunk: Any) -> Iterator[None]:
    """Gather a sharded decoder in this process for the block, in its compute dtype.

    Forward passes in the block have no gradient and are not collective; entering it is.
    """
    for unit in _units(trunk):
        unit.unshard()
    trunk.set_reshard_after_forward(False)
    _kept_gathered.add(trunk)
    try:
        with torch.no_grad():
            yield
    finally:
        _kept_gathered.discard(trunk)
        trunk.set_reshard_after_forward(_reshard())
        _free(trunk)


def _layers(model: Any) -> list[nn.Module]:
    named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    names = set(named.split(",")) if named else set(model._no_split_modules or ())
    layers = [m for m in model.get_decoder().modules() if type(m).__name__ in names]
    if not layers:
        raise ShardingError(
            f"{type(model).__name__}: found no layer of the class {', '.join(sorted(names))}; "
            "name its decoder layer's class with --fsdp_transformer_layer_cls_to_wrap"
        )
    return layers


def _reshard() -> bool:
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"


def _units(trunk: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in trunk.modules() if isinstance(module, FSDPModule))


def _free(trunk: nn.Module) -> None:
    for unit in _units(trunk) if trunk not in _kept_gathered else ():
        unit.reshard()


@torch.no_grad()
def _broadcast_from_main(tensors: Iterable[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        if not is_sharded(tensor):
            tensor.data = tensor.data.to(device).contiguous()
            torch.distributed.broadcast(tensor.data, src=0)


# ── one tensor ───────────────────────────────────────────────────────────────────────────────


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor; does not import torch.distributed."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory; the tensor itself if not sharded."""
    shard: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return shard


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor, differentiably; the tensor itself if not sharded.

    Collective in forward and backward, where gradients are summed over the processes.
    """
    from torch.distributed.tensor import Partial

    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor(grad_placements=[Partial()])  # type: ignore[attr-defined]
    return gathered


def _full_from_local(shard: Tensor, like: Tensor) -> Tensor:
    """The full tensor whose shard here is `shard`, sharded as `like` is. Collective."""
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        shard, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def _local_from_full(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a full tensor, sharded as `like` is; on like's device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    sharded = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return sharded.to_local().to(like.device)


# ── checkpoints and model folders ────────────────────────────────────────────────────────────


def full_state(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Copies of all tensors on the CPU, in full, gathered one at a time; empty unless `keep`.

    Collective.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if keep:
            state[name] = full.to("cpu", copy=True)
    return state


def full_optimizer_state(
    state: Mapping[str, Any], parameters: Iterable[Tensor], keep: bool
) -> dict[str, Any]:
    """Convert the state_dict of an optimizer over local shards to that over the full parameters.

    So a checkpoint does not depend on the number of processes. parameters: the (sharded) ones, in
    the optimizer's order. Empty unless `keep`. Collective.
    """
    gathered: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(parameters):
        entries = state["state"].get(number, {})
        for name, value in entries.items():
            full = _full_from_local(value, parameter) if _has_shard(value, parameter) else value
            if keep:
                gathered.setdefault(number, {})[name] = full.to("cpu", copy=True)
    return {**state, "state": gathered} if keep else {}


def local_optimizer_state(state: Mapping[str, Any], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """The inverse of `full_optimizer_state`: this process's shards of a full state_dict."""
    local_state = {
        number: {
            name: _local_from_full(value, parameter) if _has_shard(value, parameter) else value
            for name, value in state["state"].get(number, {}).items()
        }
        for number, parameter in enumerate(parameters)
    }
    return {
        **state,
        "state": {number: entries for number, entries in local_state.items() if entries},
    }


def _has_shard(value: Tensor, parameter: Tensor) -> bool:
    return is_sharded(parameter) and value.ndim > 0  # AdamW's step count has no dimension


def set_full(parameter: Tensor, value: Tensor) -> None:
    """Assign a full value to a parameter, sharded or not; every process must pass the value."""
    set_local(parameter, _local_from_full(value, parameter) if is_sharded(parameter) else value)


@torch.no_grad()
def set_local(parameter: Tensor, shard: Tensor) -> None:
    """Assign this process's shard of a parameter in place, visible to autograd's version count."""
    local(parameter).copy_(shard)
    torch.autograd.graph.increment_version(parameter)  # autograd does not see a write to a shard


def full_model(model: Any, dtype: torch.dtype, keep: bool) -> Any:
    """An unsharded copy of a model, in `dtype` on the CPU; None unless `keep`. Collective."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = full_tensor(tensor)
        if keep:
            state[name] = full.to("cpu", dtype if full.is_floating_point() else full.dtype)
    if not keep:
        return None
    with torch.device("meta"):
        copy = type(model)(model.config)
    copy.load_state_dict(state, assign=True)
    copy.tie_weights()
    copy.generation_config = model.generation_config
    return copy
