"""Layers that lora.targets chooses, by name or all of them."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from tests.support.training.architectures import ALONE, OWN_ATTENTION, SHARED, save_architecture

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def adapted(backbone, targets="all-linear"):
    """Full names of the layers that get an adapter."""
    backbone.add_role("policy", LoraConfig(targets=targets), 0)
    return {name.partition(".lora_")[0] for name in backbone.role_parameters("policy")}


def leaves(names):
    return sorted({name.rpartition(".")[2] for name in names})


@pytest.fixture
def of_class(tiny_model, tmp_path):
    """of_class(config) → a backbone with a random model."""

    def load(config):
        settings = (SHARED | ALONE | OWN_ATTENTION)[config]
        return Backbone.load(
            save_architecture(tmp_path / config, tiny_model, config, settings), "float32"
        )

    return load


def test_by_default_every_linear_layer_below_the_head_is_adapted(tiny_model):
    names = adapted(Backbone.load(tiny_model, "float32"))
    assert leaves(names) == LLAMA
    assert len(names) == 14  # of two layers


def test_a_string_is_the_name_of_layers_and_no_pattern(tiny_model):
    assert leaves(adapted(Backbone.load(tiny_model, "float32"), "q_proj")) == ["q_proj"]
    with pytest.raises(BackboneError, match=r"lora.targets: '\.\*_proj' is not a linear layer"):
        adapted(Backbone.load(tiny_model, "float32"), ".*_proj")


def test_several_names_and_ends_of_full_names_choose_their_layers(tiny_model):
    names = adapted(Backbone.load(tiny_model, "float32"), ("self_attn.q_proj", "1.mlp.up_proj"))
    assert names == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }


def test_a_second_role_finds_the_layers_that_the_first_one_wrapped(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    adapted(backbone, "q_proj")
    backbone.add_role("value", LoraConfig(), 0)
    names = {name.partition(".lora_")[0] for name in backbone.role_parameters("value")}
    assert leaves(names) == LLAMA


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "q", "norm"])
def test_a_name_without_a_layer_is_refused_with_the_names_there_are(tiny_model, target):
    message = f"lora.targets: '{target}' is not a linear layer .* choose from: q_proj, k_proj, "
    with pytest.raises(BackboneError, match=message):
        adapted(Backbone.load(tiny_model, "float32"), (target,))


@pytest.mark.parametrize("target", ["gate", "experts", "gate_up_proj", "gate_proj"])
def test_routers_and_experts_are_refused_with_the_names_there_are(of_class, target):
    with pytest.raises(BackboneError, match=r"choose from: q_a_proj, .*o_proj$"):
        adapted(of_class("DeepseekV3Config"), (target,))


def test_a_router_that_is_a_linear_layer_is_left_alone_unless_it_is_named(of_class):
    assert "router" not in leaves(adapted(of_class("JambaConfig")))
    assert leaves(adapted(of_class("JambaConfig"), "router")) == ["router"]


def test_a_router_that_only_looks_like_a_linear_layer_is_refused(of_class):
    assert "router" not in leaves(adapted(of_class("Llama4TextConfig")))
    with pytest.raises(BackboneError, match="'router' is not a linear layer"):
        adapted(of_class("Llama4TextConfig"), "router")


def test_what_all_linear_adapts_starts_with_the_numbers_that_peft_would_draw(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    adapted(backbone)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    theirs = dict(peft.get_peft_model(base, config, "policy").named_parameters())
    for name, parameter in backbone.role_parameters("policy").items():
        assert torch.equal(parameter, theirs[f"base_model.model.{name}"])


def test_an_image_tower_is_left_alone(of_class):
    names = adapted(of_class("Gemma3Config"))
    assert leaves(names) == LLAMA
    assert not any("vision" in name for name in names)


def test_mamba_trains_without_the_layer_whose_kernel_passes_adapters_by(of_class):
    assert leaves(adapted(of_class("MambaConfig"))) == ["dt_proj", "in_proj", "x_proj"]


def test_gpt2_s_transposed_layers_are_adapted_without_a_warning(of_class):
    assert leaves(adapted(of_class("GPT2Config"))) == ["c_attn", "c_fc", "c_proj"]


def test_a_model_without_experts_says_nothing(tiny_model, capsys):
    adapted(Backbone.load(tiny_model, "float32"))
    assert capsys.readouterr().err == ""
