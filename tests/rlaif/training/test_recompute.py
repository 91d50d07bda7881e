"""Gradient checkpointing: less is kept, layers run twice, and the gradient is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.batching.encode import Row, pad
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.models.backbone import Backbone
from rlaif.models.lora_config import LoraConfig
from rlaif.training.config import TrainConfig, TrainingError
from rlaif.training.recompute import recompute_layers
from tests.support.training.architectures import ALONE, OWN_ATTENTION, SHARED, save_architecture
from tests.support.training.perturb import shaken

PROMPT = (1, 40, 77, 90, 12, 33)
ROWS = (
    Row("long", (*PROMPT, 9, 120, 45, 201, 7, 66, 2), 6),
    Row("short", (*PROMPT, 150, 31, 2), 6),
)
LORA = LoraConfig()
ON = TrainConfig(gradient_checkpointing=True)
CLASSES = SHARED | ALONE | OWN_ATTENTION


def policy(model: str, config: TrainConfig, lora: LoraConfig | None = LORA) -> Backbone:
    backbone = Backbone.load(model, "float32", train_fully=lora is None)
    backbone.add_role("policy", lora, 0)
    if lora is not None:
        shaken(backbone, "policy", std=0.1)
    recompute_layers(backbone, config)
    return backbone


def gradients(backbone: Backbone, role: str = "policy") -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in backbone.role_parameters(role).items() if p.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert any(gradient.abs().sum() > 0 for gradient in one.values())
    for name in one:
        assert torch.equal(one[name], other[name]), name


@contextmanager
def bytes_kept() -> Iterator[list[int]]:
    """The sizes of the tensors that autograd keeps for the backward pass, each storage once."""
    sizes: list[int] = []
    seen: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch.*")
@pytest.mark.parametrize("config", CLASSES)
def test_the_gradient_of_every_class_is_the_same_to_the_bit(config, tiny_model, tmp_path):
    model = save_architecture(tmp_path / config, tiny_model, config, CLASSES[config])
    plain, recomputing = policy(model, TrainConfig()), policy(model, ON)
    for backbone in (plain, recomputing):
        backbone.logprobs("policy", pad(ROWS, backbone.device)).sum().backward()
    assert_same(gradients(plain), gradients(recomputing))


@pytest.mark.parametrize("lora", [LORA, LoraConfig(dropout=0.5), None])
def test_responses_that_share_their_prompt_have_the_same_gradient(tiny_model, lora):
    found = []
    for config in (TrainConfig(), ON):
        backbone = policy(tiny_model, config, lora)
        torch.manual_seed(3)  # of the dropout
        batch = pad_packs([ROWS], backbone.device)
        assert batch.positions is not None, "the rows share one prompt"
        backbone.response_sums("policy", batch).logprobs.sum().backward()
        found.append(gradients(backbone))
    assert_same(*found)


def test_a_layer_is_computed_twice_with_gradient_and_once_without(tiny_model):
    backbone = policy(tiny_model, TrainConfig())
    layers = [m for m in backbone.trunk.modules() if isinstance(m, GradientCheckpointingLayer)]
    calls = []
    for layer in layers:
        layer.forward = (lambda inner: lambda *a, **k: (calls.append(1), inner(*a, **k))[1])(
            layer.forward
        )
    recompute_layers(backbone, ON)
    batch = pad(ROWS, backbone.device)
    backbone.logprobs("policy", batch).sum().backward()
    assert len(calls) == 2 * len(layers)
    calls.clear()
    with torch.no_grad():
        backbone.logprobs("policy", batch)
    assert len(calls) == len(layers)


def test_the_backward_pass_keeps_a_fraction(tiny_model):
    kept = {}
    for name, config in {"plain": TrainConfig(), "recomputing": ON}.items():
        backbone = policy(tiny_model, config)
        ids = torch.randint(3, 200, (4, 128), generator=torch.Generator().manual_seed(0))
        with bytes_kept() as sizes:
            hidden = backbone.hidden_states("policy", ids)
        kept[name] = sum(sizes)
        hidden.sum().backward()
    assert kept["recomputing"] < kept["plain"] / 4


def test_a_role_is_computed_again_as_itself_after_the_forward_pass_of_another(tiny_model):
    found = []
    for config in (TrainConfig(), ON):
        backbone = Backbone.load(tiny_model, "float32")
        for seed, role in enumerate(("policy", "value")):
            backbone.add_role(role, LoraConfig(), seed)
            shaken(backbone, role, seed, std=0.1)
        recompute_layers(backbone, config)
        batch = pad(ROWS, backbone.device)
        losses = [backbone.logprobs(role, batch).sum() for role in ("policy", "value")]
        (losses[0] + 2 * losses[1]).backward()
        found.append({role: gradients(backbone, role) for role in ("policy", "value")})
    plain, recomputing = found
    assert_same(plain["policy"], recomputing["policy"])
    assert_same(plain["value"], recomputing["value"])


def test_a_class_without_marked_layers_is_refused(tiny_model, monkeypatch):
    backbone = Backbone.load(tiny_model, "float32")
    monkeypatch.setattr("rlaif.training.recompute.GradientCheckpointingLayer", int)
    with pytest.raises(TrainingError, match=r"does not support gradient_checkpointing; remove it"):
        recompute_layers(backbone, ON)
