"""The table of sampling engines, and the choice of one. Imports no torch.

A new engine is a file beside transformers.py and a line in SAMPLERS. Each can sample the policy
under training (`over_policy`) and a model loaded unchanged from its folder (`over_folder`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from constitution.errors import expected_one_of, install_hint
from rlaif.generation.base import FolderModel, Sampler, SamplingError, training_processes

if TYPE_CHECKING:
    from rlaif.models.backbone import Backbone


@dataclass(frozen=True, slots=True)
class SamplingEngine:
    """A sampling engine, an entry of SAMPLERS: how to open it, and where it can be used.

    over_policy: (backbone, tokens of prompt and response, GiB of keys and values) → its sampler.
    """

    title: str
    package: str  # module to be installed beside the extra `train`; "" for none
    in_several_processes: bool  # whether it works in a training of several processes
    over_policy: Callable[[Backbone, int, float], Sampler]
    over_folder: Callable[[FolderModel], Sampler]


def _vllm_over_policy(backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> Sampler:
    from rlaif.generation.vllm import VLLMSampler

    return VLLMSampler(backbone, max_tokens, kv_cache_gib)


def _vllm_over_folder(model: FolderModel) -> Sampler:
    from rlaif.generation.vllm import VLLMFolderSampler

    return VLLMFolderSampler(model)


def _transformers_over_policy(backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> Sampler:
    from rlaif.generation.transformers import PolicyModel, TransformersSampler

    return TransformersSampler(PolicyModel(backbone), max_tokens, kv_cache_gib)


def _transformers_over_folder(model: FolderModel) -> Sampler:
    from rlaif.generation.transformers import TransformersSampler, load_model

    return TransformersSampler(load_model(model), model.max_tokens, model.kv_cache_gib)


# In the order in which `auto` tries them; the last one must be possible everywhere.
SAMPLERS: dict[str, SamplingEngine] = {
    "vllm": SamplingEngine("vLLM", "vllm", False, _vllm_over_policy, _vllm_over_folder),
    "transformers": SamplingEngine(
        "transformers", "", True, _transformers_over_policy, _transformers_over_folder
    ),
}


def _known(name: str) -> str:
    if name != "auto" and name not in SAMPLERS:
        raise ValueError(f"unknown engine {name!r}; {expected_one_of(name, ('auto', *SAMPLERS))}")
    return name


EngineChoice = Annotated[str, AfterValidator(_known)]
"""A setting: "auto" or a name in SAMPLERS."""


def engine_choices() -> tuple[str, ...]:
    """The valid values of an EngineChoice."""
    return ("auto", *SAMPLERS)


def choose_engine(engine: str, processes: int = 1) -> str:
    """Resolve an engine's name for a training of `processes`; "auto" is the first usable one.

    Raises SamplingError if the named engine is not installed, or cannot be used there.
    """
    if engine == "auto":
        return next(name for name in SAMPLERS if not _obstacle(name, processes))
    if obstacle := _obstacle(engine, processes):
        raise SamplingError(f"engine={engine}{obstacle}")
    return engine


def _obstacle(name: str, processes: int) -> str:
    """Why an engine cannot be used here, with the remedy; empty where it can."""
    engine, other = SAMPLERS[name], list(SAMPLERS)[-1]
    if engine.package and importlib.util.find_spec(engine.package) is None:
        hint = install_hint(engine.package)
        return f", but {engine.title} is not installed; {hint}, or choose engine={other}"
    if processes > 1 and not engine.in_several_processes:
        return (
            f" in a training of {processes} processes: the engine needs the process group for "
            f"itself; set rollout_workers=1 or more, choose engine={other}, or train in one process"
        )
    return ""


def open_sampler(engine: str, backbone: Backbone, max_tokens: int, kv_cache_gib: float) -> Sampler:
    """Open a sampler of the backbone's role "policy".

    max_tokens: prompt and response together. kv_cache_gib: most GiB of keys and values. Raises
    SamplingError if the engine is not installed, was imported with other settings, or cannot start.
    """
    name = choose_engine(engine, training_processes())
    return SAMPLERS[name].over_policy(backbone, max_tokens, kv_cache_gib)


def open_folder_sampler(engine: str, model: FolderModel) -> Sampler:
    """Open a sampler of a model in its folder; raises SamplingError as `open_sampler`."""
    return SAMPLERS[choose_engine(engine)].over_folder(model)
