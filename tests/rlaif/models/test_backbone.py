"""Roles over one base: what each computes, what trains, how they are saved and merged."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.batching.encode import Row, pad
from rlaif.data.records import Sample
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.merge import merge_adapter
from rlaif.models.sample_logprobs import response_logprobs
from tests.support.training.perturb import shaken

IDS = torch.tensor([[1, 5, 6, 7, 8, 9]])
ROWS = [Row("a", (1, 5, 6, 7, 8, 2), 3), Row("b", (1, 9, 2), 2), Row("c", (4, 4, 4, 4, 4), 1)]


@pytest.fixture
def backbone(tiny_model):
    return Backbone.load(tiny_model, "float32")


def test_a_fresh_role_is_the_reference_to_the_bit(backbone):
    before = backbone.hidden_states(None, IDS)
    backbone.add_role("policy", LoraConfig(), 0)
    assert torch.equal(backbone.hidden_states("policy", IDS), before)
    shaken(backbone, "policy")
    assert not torch.equal(backbone.hidden_states("policy", IDS), before)
    assert torch.equal(backbone.hidden_states(None, IDS), before)


def test_two_roles_train_in_one_step_and_neither_touches_the_other_or_the_base(backbone):
    backbone.add_role("policy", LoraConfig(), 0)
    backbone.add_role("value", LoraConfig(), 1)
    policy, value = backbone.role_parameters("policy"), backbone.role_parameters("value")
    backbone.hidden_states("policy", IDS).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.values())
    assert all(p.grad is None for p in value.values())
    backbone.hidden_states("value", IDS).sum().backward()
    backbone.hidden_states(None, IDS)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in value.values())
    assert all(p.requires_grad for p in [*policy.values(), *value.values()])
    trained = {id(p) for p in [*policy.values(), *value.values()]}
    assert all(not p.requires_grad for p in backbone.model.parameters() if id(p) not in trained)


def test_a_loaded_role_is_frozen_and_beside_it_another_trains(backbone, tiny_model, tmp_path):
    backbone.add_role("policy", LoraConfig(), 0)
    shaken(backbone, "policy")
    backbone.save_role("policy", tmp_path)
    other = Backbone.load(tiny_model, "float32")
    other.add_role("value", LoraConfig(rank=4), 0)
    other.load_role("reward", tmp_path)
    expected = backbone.hidden_states("policy", IDS)
    assert torch.equal(other.hidden_states("reward", IDS), expected)
    assert not any(p.requires_grad for p in other.role_parameters("reward").values())
    assert all(p.requires_grad for p in other.role_parameters("value").values())


def test_adapters_are_made_from_the_seed_and_leave_the_global_one_alone(tiny_model):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    made = []
    for seed in (1, 1, 2):
        backbone = Backbone.load(tiny_model, "float32")
        backbone.add_role("policy", LoraConfig(), seed)
        made.append(torch.cat([p.flatten() for p in backbone.role_parameters("policy").values()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_logprobs_are_those_of_the_whole_model_row_by_row(backbone, tiny_model):
    batch = pad(ROWS)
    values = backbone.logprobs(None, batch)  # (3, 6)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for row, found in zip(ROWS, values, strict=True):
        ids = torch.tensor([row.ids])
        log_pi = model(ids).logits.log_softmax(-1)[0]
        own = torch.stack([log_pi[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))])
        torch.testing.assert_close(found[row.start : len(row.ids)], own)
        assert found.count_nonzero() == row.response_length


def test_a_merged_adapter_is_an_ordinary_model_folder(backbone, tiny_model, tmp_path):
    backbone.add_role("policy", LoraConfig(), 0)
    shaken(backbone, "policy")
    backbone.save_role("policy", tmp_path / "adapter")
    merged = merge_adapter(tiny_model, tmp_path / "adapter", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    expected = backbone.hidden_states("policy", IDS) @ backbone.head_weight.T
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(merged).chat_template
    assert not (tmp_path / "merged.partial").exists()


def test_response_logprobs_give_reference_and_policy(backbone, tiny_model, questions, tmp_path):
    backbone.add_role("policy", LoraConfig(), 0)
    backbone.save_role("policy", tmp_path)
    samples = [
        Sample(prompt=questions[0], index=0, response="Yes", tokens=4, complete=True, seed=0),
        Sample(prompt=questions[1], index=0, response="No", tokens=2, complete=False, seed=0),
    ]
    reference, policy = response_logprobs(tiny_model, tmp_path, "float32")
    assert [len(values) for values in reference(samples)] == [4, 2]
    assert policy(samples) == reference(samples)  # a fresh adapter is the base


def test_the_fingerprint_follows_the_weights_and_not_the_dtype(make_tiny_model, tiny_model):
    own = Backbone.load(tiny_model, "float32").fingerprint
    assert Backbone.load(tiny_model, "bfloat16").fingerprint == own
    assert Backbone.load(make_tiny_model(seed=1), "float32").fingerprint != own


def test_the_dtype_is_the_one_asked_for(tiny_model):
    backbone = Backbone.load(tiny_model, "bfloat16")
    backbone.add_role("policy", LoraConfig(), 0)
    assert backbone.dtype is torch.bfloat16
    assert backbone.head_weight.dtype is torch.float32
    assert all(p.dtype is torch.float32 for p in backbone.role_parameters("policy").values())


def test_a_folder_that_is_not_a_model_is_named(tmp_path):
    with pytest.raises(BackboneError, match=r"cannot be loaded: .*; give a model folder"):
        Backbone.load(str(tmp_path))


def test_a_folder_without_an_adapter_is_named(backbone, tiny_model, tmp_path):
    with pytest.raises(BackboneError, match="cannot be loaded"):
        backbone.load_role("reward", tmp_path)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        merge_adapter(tiny_model, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
