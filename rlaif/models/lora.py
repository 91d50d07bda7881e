"""LoRA adapters over one model, one of them active at a time (arXiv:2106.09685).

    y = W x + s B A x        W frozen; A (rank, in), B (out, rank) train in float32
    s = alpha / rank, or with rslora alpha / √rank (arXiv:2312.03732)
    dropout zeroes a share of x before A, where gradients are computed and nowhere else: neither
    references, scores and evaluations nor samples have it

peft creates, loads and saves them, in its own format. `LeanLinear` replaces the computation of
every layer: over a bfloat16 base, peft carries A x, B A x and their sum through the layer in
float32; here x stays as it is and A and B are rounded to it, as autocast would, which saves half
a dozen passes over the activations and their float32 copies (docs/log.md has the measurement).
Left out: LoRA's variants (DoRA and the like): adapters with those run as in peft.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from peft.tuners import lora as peft_lora
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from rlaif.distributed.processes import ProcessGroup
from rlaif.models.folder import BackboneError, readable_errors, save_tensors
from rlaif.models.lora_config import LoraConfig
from rlaif.models.lora_targets import ALL_LINEAR, chosen_layers, linear_layers, names_of
from rlaif.models.merge import adapted_layers

Role = Literal["policy", "value", "reward"]


class LeanLinear(peft_lora.Linear):  # type: ignore[misc]
    """peft's adapted linear layer, computed in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """W x, plus s B A x of the active adapter: (..., in) → (..., out)."""
        base: Tensor = self.base_layer(x)
        name = self.active_adapters[0]  # one role is on at a time
        if self.disable_adapters or name not in self.lora_A:
            return base
        a = self.lora_A[name].weight.to(base.dtype)  # (rank, in)
        b = (self.scaling[name] * self.lora_B[name].weight).to(base.dtype)  # (out, rank)
        x = self.lora_dropout[name](x.to(base.dtype))
        inner = (x @ a.T).flatten(0, -2)  # (N, rank)
        return torch.addmm(base.flatten(0, -2), inner, b.T).view_as(base)


class GradientDropout(torch.nn.Module):
    """Dropout where gradients are computed, whatever the mode of the model: that is always eval,
    so that the base's own dropout is off.

    Masks come from torch's global generator, whose state is in checkpoints.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """x with a share of its elements zeroed and the others scaled up; x without gradient."""
        return torch.dropout(x, self.share, train=True) if torch.is_grad_enabled() else x


def _plain(layer: Any) -> bool:
    """Whether all of a layer's adapters are what LeanLinear computes."""
    usual = type(layer.get_base_layer()) is torch.nn.Linear and not layer.fan_in_fan_out
    return usual and not layer.lora_variant and not any(layer.lora_bias.values())


class Adapters:
    """The adapters of one model, by role.

    model: a transformers model, which peft wraps in place. name: its folder or hub id, for errors
    and for the configs of saved adapters.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self._peft: Any = None
        self._parameters: dict[Role, dict[str, torch.nn.Parameter]] = {}
        self._trainable: set[Role] = set()
        self._layers = linear_layers(model)  # before peft wraps them
        self._noted = False

    @property
    def roles(self) -> list[Role]:
        """Roles that have an adapter, in the order they were added."""
        return list(self._parameters)

    def add(self, role: Role, lora: LoraConfig, seed: int) -> None:
        """Add a trainable adapter: A drawn from the seed, B zero.

        Raises BackboneError when lora.targets do not fit the model.
        """
        targets = chosen_layers(self._layers, lora.targets, self.name)
        self._tell_what_is_left_alone(lora)
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            use_rslora=lora.rslora,
            lora_dropout=lora.dropout,
            target_modules=targets,
            fan_in_fan_out=all(isinstance(self._layers.usable[t], Conv1D) for t in targets),
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.name,
        )
        with torch.random.fork_rng(), readable_errors(self.name):
            torch.manual_seed(seed)
            if self._peft is None:
                self._peft = peft.get_peft_model(self.model, config, adapter_name=role)
            else:
                self._peft.add_adapter(role, config)
        self._trainable.add(role)
        self._take_up(role, self.name, lora.dropout)

    def load(self, role: Role, folder: Path) -> None:
        """Load a saved adapter, frozen. Raises BackboneError when it does not fit this model."""
        if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
            raise BackboneError(
                f"{folder}: a whole model, not an adapter over {self.name}; give it as the model"
            )
        with readable_errors(str(folder)):
            if self._peft is None:
                self._peft = peft.PeftModel.from_pretrained(self.model, folder, adapter_name=role)
            else:
                self._peft.load_adapter(folder, adapter_name=role)
        self._take_up(role, str(folder))

    def save(self, role: Role, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as peft reads them.

        Raises BackboneError when they cannot be written.
        """
        state = peft.get_peft_model_state_dict(self._peft, adapter_name=role)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(state, folder / "adapter_model.safetensors")
            config = self._peft.peft_config[role]
            trained, config.inference_mode = config.inference_mode, True
            config.save_pretrained(str(folder))
            config.inference_mode = trained
        except OSError as error:
            raise BackboneError(
                f"{folder}: the adapter cannot be saved ({error.strerror}); free some space and "
                "run again: training resumes from its last checkpoint"
            ) from error

    def parameters(self, role: Role) -> dict[str, torch.nn.Parameter]:
        """Name → weight of a role's adapter, float32 over any base."""
        return self._parameters[role]

    def activate(self, role: Role | None) -> None:
        """Switch to the adapter of a role, or to the bare base (None).

        Restores requires_grad of the inactive roles, which peft would toggle: several roles train
        in one step here.
        """
        if self._peft is None:
            assert role is None, f"unknown role: {role}"
            return
        if role is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(role)
        for each, parameters in self._parameters.items():
            for parameter in parameters.values():
                parameter.requires_grad_(each in self._trainable)

    def _tell_what_is_left_alone(self, lora: LoraConfig) -> None:
        """Print, once per model, what all-linear leaves out in a mixture of experts."""
        if self._layers.note and names_of(lora.targets) >= {ALL_LINEAR} and not self._noted:
            self._noted = True
            if ProcessGroup.current().is_main:
                print(f"{self.name}: {self._layers.note}", file=sys.stderr)

    def _take_up(self, role: Role, what: str, dropout: float = 0.0) -> None:
        """Refuse an adapter of layers that are computed elsewhere (embeddings, or the
        head over the hidden states); of the others, take over the computing and the dropout."""
        head = self.model.get_output_embeddings()
        for name, layer in adapted_layers(self.model, role):
            if layer is head or not isinstance(layer, peft_lora.Linear):
                raise BackboneError(
                    f"{what}: adapts {name}; only linear layers below the language-model head can "
                    "be adapted here: merge it (`rlaif models merge`) and give the merged model"
                )
            layer.__class__ = LeanLinear if _plain(layer) else peft_lora.Linear
            # a frozen adapter's own dropout was for its training
            layer.lora_dropout[role] = GradientDropout(dropout) if dropout else torch.nn.Identity()
        self._parameters[role] = {
            n: p for n, p in self.model.named_parameters() if "lora_" in n and f".{role}." in n
        }
