"""What a worker holds: a sampler, and the weights of one version.

    transport   engine         it holds
    adapter     transformers   the base and the adapter, as the trainer does
                vLLM           these, and the engine that they are handed to (weight_sync.py)
    files       transformers   the model, overwritten in place
                vLLM           the engine, which reads the file
    nccl        vLLM           the engine, which the trainer sends to (nccl.py)

A request names the version that is to draw: another one is loaded before anything is drawn, never
while. The same class answers in a subprocess and in an actor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from rlaif.generation.base import Sampler, SamplingError
from rlaif.generation.engines import open_sampler
from rlaif.generation.remote.protocol import WorkerSpec, drawn_answer
from rlaif.generation.transformers import PolicyModel, TransformersSampler
from rlaif.models.backbone import Backbone
from rlaif.models.folder import load_tensors
from rlaif.models.lora_config import LoraConfig


class Held(Protocol):
    """A sampler whose weights come from a file."""

    @property
    def sampler(self) -> Sampler:
        """What draws."""

    def load(self, path: Path) -> None:
        """Take over the weights in the file. Raises OSError or KeyError for one that lacks some."""


class Holder:
    """Answers a worker's requests (protocol.py); starts with the base's own weights, version 0."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._held = _open(spec)
        self._version = 0

    @property
    def exact(self) -> bool:
        """Whether its log-probs are those of the trainer's own forward."""
        return self._held.sampler.exact

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises SamplingError for weights that cannot be loaded."""
        if request["do"] == "look":  # whether it is there
            return {}
        if request["do"] != "draw":
            return self._transfer(request)
        self._bring_to(request["version"], request["weights"])
        drawn = self._held.sampler.generate(
            request["prompts"], request["max_new_tokens"], request["temperature"],
            request["seeds"], request["top_p"],
        )  # fmt: skip
        return drawn_answer(drawn, self._version)

    def _bring_to(self, version: int, weights: str) -> None:
        if version == self._version:
            return
        if not weights:
            raise SamplingError(
                f"a rollout worker holds version {self._version} of the weights and was asked for "
                f"{version}, which the trainer has not sent; start the run again"
            )
        try:
            self._held.load(Path(weights))
        except (OSError, KeyError, RuntimeError) as error:
            raise SamplingError(
                f"{weights}: these weights cannot be loaded ({error}); the folder must be one that "
                "trainer and rollout workers share"
            ) from error
        self._version = version

    def _transfer(self, request: dict[str, Any]) -> dict[str, Any]:
        from rlaif.generation.remote.nccl import Receiver

        if not isinstance(self._held, Receiver):
            raise SamplingError(f"unknown request to a rollout worker: {request['do']!r}")
        self._held.take(request)
        self._version = request.get("version", self._version)
        return {}


def _open(spec: WorkerSpec) -> Held:
    if spec.transport == "nccl":
        from rlaif.generation.remote.nccl import Receiver

        return Receiver(spec)
    if spec.transport == "adapter":
        return _WithAdapter(spec)
    return _VLLMFromFiles(spec) if spec.engine == "vllm" else _WholeModel(spec)


def _load(spec: WorkerSpec) -> Backbone:
    kwargs = spec.chat_template_kwargs
    return Backbone.load(spec.model, spec.dtype, spec.lora is None, template_kwargs=kwargs)


class _WithAdapter:
    """The base and its adapter, as the trainer has them."""

    def __init__(self, spec: WorkerSpec) -> None:
        assert spec.lora is not None, "an adapter without its shape"
        backbone = _load(spec)
        backbone.add_role("policy", LoraConfig(**spec.lora), 0)  # its values come from files
        self._parameters = backbone.role_parameters("policy")
        self.sampler = open_sampler(spec.engine, backbone, spec.max_tokens, spec.kv_cache_gib)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        tensors = load_tensors(path)
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[name])
        self.sampler.sync()


class _UnchangedModel(PolicyModel):
    """A backbone's model without a role."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Nothing to fold in: the file has it."""
        yield


class _WholeModel:
    """A model whose weights are overwritten in place."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._backbone = _load(spec)
        model = _UnchangedModel(self._backbone)
        self.sampler = TransformersSampler(model, spec.max_tokens, spec.kv_cache_gib)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        tensors = load_tensors(path)
        for name, tensor in self._backbone.named_weights(None):
            tensor.copy_(tensors[name])


class _VLLMFromFiles:
    """A vLLM engine over the model's folder; its weights are read from files."""

    def __init__(self, spec: WorkerSpec) -> None:
        from rlaif.generation.vllm import VLLMWorkerSampler

        self.sampler: VLLMWorkerSampler = VLLMWorkerSampler(
            spec.model, spec.dtype, spec.max_tokens, spec.kv_cache_gib, frozenset(spec.ends)
        )

    def load(self, path: Path) -> None:
        self.sampler.take(load_tensors(path).items())
