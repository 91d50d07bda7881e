"""Adapters folded into the base: for a while, as a stream of weights, as a folder."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming

from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.merge import merge_adapter
from tests.support.training.perturb import shaken

IDS = torch.tensor([[1, 5, 6, 7, 8, 9]])


@pytest.fixture(params=["float32", "bfloat16"])
def backbone(request, tiny_model):
    made = Backbone.load(tiny_model, request.param)
    made.add_role("policy", LoraConfig(), 0)
    shaken(made, "policy", std=0.1)
    return made


def bits(backbone):
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_inside_the_block_the_base_is_the_role_and_after_it_to_the_bit_what_it_was(backbone):
    before = bits(backbone)
    plain = backbone.hidden_states("policy", IDS)
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if backbone.dtype is torch.float32 else {
        "atol": 0.3, "rtol": 0.1
    }  # fmt: skip
    with backbone.merged("policy"):
        folded = backbone.hidden_states("policy", IDS)
        assert not folded.requires_grad
        with backbone.merged("policy"):
            assert torch.equal(backbone.hidden_states("policy", IDS), folded)
    torch.testing.assert_close(folded, plain.detach(), **tolerance)
    assert_same_bits(bits(backbone), before)
    assert torch.equal(backbone.hidden_states("policy", IDS), plain)


def test_the_base_is_restored_when_the_block_fails(backbone):
    before = bits(backbone)
    with pytest.raises(KeyboardInterrupt), backbone.merged("policy"):
        raise KeyboardInterrupt
    assert_same_bits(bits(backbone), before)
    assert backbone.hidden_states("policy", IDS).requires_grad


def test_inside_the_block_no_other_role_answers(backbone):
    with backbone.merged("policy"), pytest.raises(AssertionError, match="policy is merged"):
        backbone.hidden_states(None, IDS)


def test_merging_nothing_or_a_fully_trained_role_changes_nothing(backbone, tiny_model):
    before = backbone.hidden_states(None, IDS)
    with backbone.merged(None):
        assert torch.equal(backbone.hidden_states(None, IDS), before)
    whole = Backbone.load(tiny_model, "float32", train_fully=True)
    whole.add_role("policy", None, 0)
    before = bits(whole)
    with whole.merged("policy"):
        assert_same_bits(bits(whole), before)


@pytest.mark.parametrize("role", [None, "policy"])
def test_named_weights_are_those_of_the_merged_folder(backbone, tiny_model, role, tmp_path):
    folder = tiny_model
    if role:
        backbone.save_role("policy", tmp_path / "adapter")
        base = save_as(tiny_model, tmp_path / "base", backbone.dtype)
        folder = merge_adapter(str(base), tmp_path / "adapter", tmp_path / "merged")
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=backbone.dtype)
    found = dict(backbone.named_weights(role))
    assert found.keys() == {name for name, _ in expected.named_parameters()}  # tied weights once
    for name, parameter in expected.named_parameters():
        assert torch.equal(found[name], parameter.detach()), name


def save_as(model, folder, dtype):
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def test_named_weights_have_the_names_of_the_folder(backbone, monkeypatch):
    renamed = WeightRenaming("body.layers", "model.layers")  # of the folder, in memory
    monkeypatch.setattr(backbone.model, "_weight_conversions", [renamed], raising=False)
    found = dict(backbone.named_weights("policy"))
    assert "body.layers.1.mlp.up_proj.weight" in found
    assert not any(name.startswith("model.layers") for name in found)


def test_named_weights_of_a_layout_of_its_own_are_refused(backbone, monkeypatch):
    fused = WeightConverter(["up", "gate"], ["both"], operations=[Concatenate(dim=0)])
    monkeypatch.setattr(backbone.model, "_weight_conversions", [fused], raising=False)
    with pytest.raises(BackboneError, match=r"laid out otherwise .* engine=transformers"):
        next(backbone.named_weights("policy"))
