"""FSDP2: a base's weights, their gradients and AdamW's moments, cut over a launch's processes.

    unit                                   gathered by              its gradient
    each decoder layer, the embeddings,    FSDP2's hooks around     reduce-scattered in backward
    the last norm                          forward and backward
    the language-model head (it may be     `whole`, at each read    by `whole`'s own backward
    the embeddings' weight)
    adapters, a reward model's heads       nothing: each process    workers.add_gradients
                                           holds all of them

Gradients are summed, not averaged (workers.py says why). Every forward pass and every backward
pass is then collective: a process that has no rows left computes a batch of none
(Workers.in_step). Sampling cannot go in step, its responses end at different times: for so long
every unit stays gathered (`unsharded`). The optimizer works on each process's own pieces (`local`),
so it and the norm need not know of any of this; a checkpoint holds whole tensors, gathered one at a
time.

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

# what FSDP can be told that this would pass over: variable → (what it does, remedy)
_NOT_READ = {
    "FSDP_VERSION": (("2",), "launch with --fsdp_version 2 (version 1 is superseded by it)"),
    "FSDP_RESHARD_AFTER_FORWARD": (("true", "false"), "FSDP2 takes true or false"),
    "FSDP_AUTO_WRAP_POLICY": (
        ("transformer_based_wrap",),
        "every decoder layer is a unit: TRANSFORMER_BASED_WRAP, or nothing",
    ),
    "FSDP_STATE_DICT_TYPE": (
        ("full_state_dict",),
        "checkpoints hold whole tensors, so that any number of processes can go on with them: "
        "FULL_STATE_DICT, or nothing",
    ),
    "FSDP_OFFLOAD_PARAMS": (("false",), "set it to false, and launch more processes"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        ("false",),
        "set it to false; a smaller micro_batch_tokens saves activations",
    ),
    "FSDP_FORWARD_PREFETCH": (("false",), "set it to false"),
    "FSDP_IGNORED_MODULES": (("",), "leave it away"),
}


_READ_ONCE = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # of the launcher, heeded by transformers
_SET_ASIDE = "RLAIF_READ_ONCE"

_kept: WeakSet[nn.Module] = WeakSet()  # the trunks that are inside `unsharded`


class ShardingError(UserError):
    """A sharded launch that cannot work as it was asked for: what, and the remedy."""


def asked() -> bool:
    """Whether `accelerate launch` was told FSDP, for several processes. Raises ShardingError for
    settings of it that would do nothing."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    for name, (done, remedy) in _NOT_READ.items():
        value = os.environ.get(name, "1" if name == "FSDP_VERSION" else done[0])
        if value.lower() not in done:
            raise ShardingError(f"{name}={value} (set by accelerate) has no effect here: {remedy}")
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def set_reading_aside() -> None:
    """What the launcher said of reading a model once per host holds inside `reading` alone. A model
    of a reward function's own, never cut, would be zeros in the other processes."""
    if _READ_ONCE in os.environ:
        os.environ[_SET_ASIDE] = os.environ.pop(_READ_ONCE)


@contextmanager
def reading() -> Iterator[None]:
    """Inside the block transformers reads a model in one process per host, if the launcher said so;
    `shard` gives it to the others."""
    os.environ[_READ_ONCE] = os.environ.get(_SET_ASIDE, "false")
    try:
        yield
    finally:
        del os.environ[_READ_ONCE]


def shard(model: Any, replicated: Collection[nn.Parameter], computed: torch.dtype) -> None:
    """Cut a transformers model in place: its named_parameters become DTensors, one piece here.

    The main process's weights count, whatever the others loaded, and all come to this process's
    device. replicated: parameters that each process keeps whole. computed: what the layers'
    matrices are multiplied in. Raises ShardingError for a model whose layers cannot be told.
    """
    from accelerate import PartialState
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    state = PartialState()
    mesh = init_device_mesh(state.device.type, (state.num_processes,))
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embeddings.weight
    trunk, layers = model.get_decoder(), _layers(model)
    # Gathered in the dtype they are computed in: a copy cast by autocast would outlive the layer.
    # Inputs and outputs stay as they are, so that the residual stream does too.
    mixed = MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False)
    for unit in [*layers, embeddings, *([] if tied else [head]), trunk]:
        _from_the_main_process([*unit.parameters(), *unit.buffers()], state.device)
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=_reshard(),
            mp_policy=mixed if unit in layers else MixedPrecisionPolicy(),
            ignored_params=set(replicated),
        )
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # else a scaled sum, which gloo has not
    if tied:
        head.weight = embeddings.weight
    if not _reshard():  # what a pass without gradient gathered, no backward pass frees
        trunk.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else _free(trunk))


@contextmanager
def unsharded(trunk: Any) -> Iterator[None]:
    """Inside the block every unit of a sharded decoder is whole here, in the dtype that it computes
    in, and a pass without gradient is not collective. Beginning it is."""
    for unit in _units(trunk):
        unit.unshard()
    trunk.set_reshard_after_forward(False)
    _kept.add(trunk)
    try:
        with torch.no_grad():
            yield
    finally:
        _kept.discard(trunk)
        trunk.set_reshard_after_forward(_reshard())
        _free(trunk)


def _layers(model: Any) -> list[nn.Module]:
    named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    names = set(named.split(",")) if named else set(model._no_split_modules or ())
    layers = [m for m in model.get_decoder().modules() if type(m).__name__ in names]
    if not layers:
        raise ShardingError(
            f"{type(model).__name__}: it has no layer of the class {', '.join(sorted(names))}; "
            "name its decoder layer's class with --fsdp_transformer_layer_cls_to_wrap"
        )
    return layers


def _reshard() -> bool:
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"


def _units(trunk: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in trunk.modules() if isinstance(module, FSDPModule))


def _free(trunk: nn.Module) -> None:
    for unit in _units(trunk) if trunk not in _kept else ():
        unit.reshard()


@torch.no_grad()
def _from_the_main_process(tensors: Iterable[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        if not is_sharded(tensor):
            tensor.data = tensor.data.to(device).contiguous()
            torch.distributed.broadcast(tensor.data, src=0)


# ── one tensor ───────────────────────────────────────────────────────────────────────────────


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, told without importing torch.distributed


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a sharded tensor, sharing its memory; any other as it is."""
    piece: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return piece


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; collective, and so is its gradient, which is summed."""
    from torch.distributed.tensor import Partial

    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor(grad_placements=[Partial()])  # type: ignore[attr-defined]
    return gathered


def _whole_of(piece: Tensor, like: Tensor) -> Tensor:
    """The whole whose piece here is `piece`, cut as `like` is. Collective."""
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        piece, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def _piece_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What of a whole tensor lies here, cut as `like` is; on like's device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    cut = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return cut.to_local().to(like.device)


# ── checkpoints and model folders ────────────────────────────────────────────────────────────


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Copies of all, whole and on the CPU, one gathered after another; nothing where not `keep`.
    Collective."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.to("cpu", copy=True)
    return found


def gathered_moments(
    state: Mapping[str, Any], parameters: Iterable[Tensor], keep: bool
) -> dict[str, Any]:
    """An optimizer's state_dict over the local pieces of `parameters` as that over them whole: what
    one process alone would have. Empty where not `keep`. Collective."""
    found: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(parameters):
        entries = state["state"].get(number, {})
        for name, value in entries.items():
            full = _whole_of(value, parameter) if _is_cut(value, parameter) else value
            if keep:
                found.setdefault(number, {})[name] = full.to("cpu", copy=True)
    return {**state, "state": found} if keep else {}


def pieces_of_moments(state: Mapping[str, Any], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """The inverse of `gathered_moments`, here."""
    cut = {
        number: {
            name: _piece_of(value, parameter) if _is_cut(value, parameter) else value
            for name, value in state["state"].get(number, {}).items()
        }
        for number, parameter in enumerate(parameters)
    }
    return {**state, "state": {number: entries for number, entries in cut.items() if entries}}


def _is_cut(value: Tensor, parameter: Tensor) -> bool:
    return is_sharded(parameter) and value.ndim > 0  # AdamW's step count has no dimension


def set_to(parameter: Tensor, value: Tensor) -> None:
    """Write a whole value, of which every process has all, into a parameter, sharded or not."""
    set_local(parameter, _piece_of(value, parameter) if is_sharded(parameter) else value)


@torch.no_grad()
def set_local(parameter: Tensor, piece: Tensor) -> None:
    """Write into what `local` gives of the parameter."""
    local(parameter).copy_(piece)
    torch.autograd.graph.increment_version(parameter)  # what is written to a piece is not counted


def gathered_model(model: Any, dtype: torch.dtype, keep: bool) -> Any:
    """An ordinary model with a sharded one's weights, in `dtype` on the CPU; None where not `keep`.
    Collective."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = whole(tensor)
        if keep:
            state[name] = full.to("cpu", dtype if full.is_floating_point() else full.dtype)
    if not keep:
        return None
    with torch.device("meta"):
        found = type(model)(model.config)
    found.load_state_dict(state, assign=True)
    found.tie_weights()
    found.generation_config = model.generation_config
    return found
