"""The lean LoRA layer against peft's own, and what may not be adapted."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.lora import LeanLinear
from rlaif.models.merge import merge_adapter
from tests.support.training.architectures import SHARED, save_architecture
from tests.support.training.perturb import shaken

IDS = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 4, 4, 4, 4, 2]])


def saved_adapter(tiny_model, folder):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    shaken(backbone, "policy", std=0.1)
    backbone.save_role("policy", folder)
    return backbone


def test_a_saved_adapter_computes_in_peft_what_it_computes_here(tiny_model, tmp_path):
    backbone = saved_adapter(tiny_model, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    ours = backbone.hidden_states("policy", IDS)
    expected = theirs.base_model.model.model(IDS).last_hidden_state
    torch.testing.assert_close(ours, expected)
    weights = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = [p.grad for n, p in theirs.named_parameters() if "lora_" in n]
    assert len(gradients) == len(backbone.role_parameters("policy"))
    for parameter, gradient in zip(
        backbone.role_parameters("policy").values(), gradients, strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def test_over_a_bfloat16_base_nothing_is_carried_in_float32(tiny_model, tmp_path):
    saved_adapter(tiny_model, tmp_path)
    backbone = Backbone.load(tiny_model, "bfloat16")
    backbone.load_role("policy", tmp_path)
    exact = Backbone.load(tiny_model, "float32")
    exact.load_role("policy", tmp_path)
    layer = backbone.trunk.layers[0].mlp.up_proj
    assert isinstance(layer, LeanLinear)
    assert layer(torch.ones(1, 1, 32, dtype=torch.bfloat16)).dtype is torch.bfloat16
    ours = backbone.hidden_states("policy", IDS).float()
    expected = exact.hidden_states("policy", IDS)
    assert (ours - expected).norm() < 0.05 * expected.norm()


def test_an_adapter_of_another_kind_runs_as_in_peft(tiny_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config = peft.LoraConfig(use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path)
    backbone = Backbone.load(tiny_model, "float32")
    backbone.load_role("policy", tmp_path)
    expected = theirs.base_model.model.model(IDS).last_hidden_state
    torch.testing.assert_close(backbone.hidden_states("policy", IDS), expected)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.")  # peft's, before ours
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_the_head_or_the_embeddings_is_refused(tiny_model, target, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config = peft.LoraConfig(target_modules=[target], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    backbone = Backbone.load(tiny_model, "float32")
    message = f"adapts .*{target}; only linear layers below .* give the merged model"
    with pytest.raises(BackboneError, match=message):
        backbone.load_role("policy", tmp_path)


def test_a_whole_model_is_not_an_adapter(tiny_model, tmp_path):
    backbone = Backbone.load(tiny_model, "float32")
    with pytest.raises(
        BackboneError, match=r"a whole model, not an adapter .* give it as the model"
    ):
        backbone.load_role("reward", Path(tiny_model))


# ── rsLoRA and dropout ───────────────────────────────────────────────────────────────────────────


def test_rslora_scales_by_the_root_of_the_rank(tiny_model):
    scalings = {}
    for rslora in (False, True):
        backbone = Backbone.load(tiny_model, "float32")
        backbone.add_role("policy", LoraConfig(rank=4, alpha=8, rslora=rslora), 0)
        scalings[rslora] = backbone.trunk.layers[0].mlp.up_proj.scaling["policy"]
    assert scalings == {False: 8 / 4, True: 8 / 2}


def test_an_adapter_with_rslora_means_the_same_loaded_merged_and_in_peft(tiny_model, tmp_path):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(rank=4, alpha=8, rslora=True, dropout=0.3), 0)
    shaken(backbone, "policy", std=0.1)
    backbone.save_role("policy", tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (saved["use_rslora"], saved["lora_dropout"]) == (True, 0.3)
    with torch.no_grad():  # without dropout
        expected = backbone.hidden_states("policy", IDS)
        with backbone.merged("policy"):
            torch.testing.assert_close(backbone.hidden_states("policy", IDS), expected)

    other = Backbone.load(tiny_model, "float32")
    other.load_role("reward", tmp_path / "adapter")
    torch.testing.assert_close(other.hidden_states("reward", IDS), expected)  # frozen: no dropout
    merged = merge_adapter(tiny_model, tmp_path / "adapter", tmp_path / "merged")
    whole = Backbone.load(str(merged), "float32")
    torch.testing.assert_close(whole.hidden_states(None, IDS), expected, atol=1e-4, rtol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(theirs.base_model.model.model(IDS).last_hidden_state, expected)


def test_dropout_is_on_with_gradient_and_off_without(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(dropout=0.5), 0)
    shaken(backbone, "policy", std=0.1)
    exact = Backbone.load(tiny_model, "float32")
    exact.add_role("policy", LoraConfig(), 0)
    shaken(exact, "policy", std=0.1)
    with torch.no_grad():
        expected = exact.hidden_states("policy", IDS)
        assert torch.equal(backbone.hidden_states("policy", IDS), expected)
        reference = exact.hidden_states(None, IDS)
    first, second = (backbone.hidden_states("policy", IDS) for _ in range(2))
    assert not torch.equal(first, expected)
    assert not torch.equal(first, second)
    assert torch.equal(backbone.hidden_states(None, IDS), reference)  # the base has none


def test_a_layer_with_dropout_computes_by_hand(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(rank=4, alpha=8, dropout=0.25), 0)
    shaken(backbone, "policy", std=0.1)
    backbone.hidden_states("policy", IDS)  # the policy is on
    layer = backbone.trunk.layers[0].mlp.up_proj
    x = torch.linspace(-1, 1, 5 * 32).view(5, 32)
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(x, 0.25)
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    torch.testing.assert_close(found, layer.base_layer(x) + 2 * dropped @ a.T @ b.T)
    assert (dropped == 0).any()


def test_dropout_reaches_the_layers_that_peft_computes(tiny_model, tmp_path):
    folder = save_architecture(tmp_path / "gpt2", tiny_model, "GPT2Config", SHARED["GPT2Config"])
    backbone = Backbone.load(folder, "float32")
    backbone.add_role("policy", LoraConfig(dropout=0.5), 0)
    shaken(backbone, "policy", std=0.1)
    with torch.no_grad():
        still = [backbone.hidden_states("policy", IDS) for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.equal(backbone.hidden_states("policy", IDS), still[0])
