"""A role that is the base itself: what trains, what it is saved as, what stays frozen."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlaif.batching.encode import Row, pad
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.merge import merge_adapter
from tests.support.chat_templates import GEMMA

ROWS = [Row("a", (1, 5, 6, 7, 8, 2), 3), Row("b", (1, 9, 2), 2)]


def whole(tiny_model, dtype="float32"):
    backbone = Backbone.load(tiny_model, dtype, train_fully=True)
    backbone.add_role("policy", None, 0)
    return backbone


def one_step(backbone, rate=0.1):
    optimizer = torch.optim.SGD(backbone.role_parameters("policy").values(), lr=rate)
    (-backbone.logprobs("policy", pad(ROWS)).sum()).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_step_is_that_of_cross_entropy_through_the_whole_model(tiny_model):
    backbone = whole(tiny_model)
    one_step(backbone)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight  # tied: two gradients in one
    batch = pad(ROWS)
    labels = torch.where(batch.response_mask, batch.ids, -100)
    logits = model(batch.ids, attention_mask=torch.arange(6) <= batch.last[:, None]).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found = backbone.role_parameters("policy")
    expected = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, atol=1e-5, rtol=1e-5)


def test_what_was_trained_is_what_is_saved(tiny_model, tmp_path):
    backbone = whole(tiny_model)
    one_step(backbone)
    backbone.save_role("policy", tmp_path)
    assert not (tmp_path / "model.partial").exists()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    again = Backbone.load(str(tmp_path), "float32")
    batch = pad(ROWS)
    assert torch.equal(again.logprobs(None, batch), backbone.logprobs("policy", batch).detach())


def test_saving_leaves_other_files_of_the_folder_and_replaces_its_own(tiny_model, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    backbone = whole(tiny_model)
    backbone.save_role("policy", tmp_path)
    one_step(backbone)
    backbone.save_role("policy", tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"
    assert Backbone.load(str(tmp_path), "float32").fingerprint != backbone.fingerprint


def test_a_folder_that_cannot_be_written_is_named(tiny_model, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BackboneError, match=r"out: the model cannot be saved .* free some space"):
        whole(tiny_model).save_role("policy", tmp_path / "out")


def test_in_bfloat16_weights_and_gradients_stay_float32_and_the_folder_is_bfloat16(
    tiny_model, tmp_path
):
    backbone = whole(tiny_model, "bfloat16")
    assert backbone.dtype is torch.bfloat16
    (-backbone.logprobs("policy", pad(ROWS)).sum()).backward()
    parameters = backbone.role_parameters("policy")
    assert all(p.dtype is torch.float32 and p.grad is not None for p in parameters.values())
    exact = whole(tiny_model)
    (-exact.logprobs("policy", pad(ROWS)).sum()).backward()
    for name, parameter in exact.role_parameters("policy").items():
        difference = (parameters[name].grad - parameter.grad).norm()
        assert 0 < difference < 0.1 * parameter.grad.norm(), name
    backbone.save_role("policy", tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype is torch.bfloat16
    assert backbone.model.dtype is torch.float32


def test_the_reference_is_there_before_the_first_step_and_refused_after_it(tiny_model):
    backbone = whole(tiny_model)
    batch = pad(ROWS)
    reference = backbone.logprobs(None, batch)
    assert torch.equal(reference, backbone.logprobs("policy", batch).detach())
    one_step(backbone)
    with pytest.raises(BackboneError, match="no reference; compute its log-probs before"):
        backbone.logprobs(None, batch)
    copy = backbone.frozen_copy()
    assert torch.equal(copy.logprobs(None, batch), reference.detach())


def test_a_frozen_copy_carries_roles_of_its_own(tiny_model):
    backbone = whole(tiny_model)
    copy = backbone.frozen_copy()
    copy.add_role("value", LoraConfig(), 0)
    one_step(backbone)
    assert torch.equal(
        copy.hidden_states("value", pad(ROWS).ids), copy.hidden_states(None, pad(ROWS).ids)
    )
    assert copy.fingerprint == backbone.fingerprint


def test_adapters_and_full_fine_tuning_do_not_mix(tiny_model, tmp_path):
    backbone = whole(tiny_model)
    with pytest.raises(
        BackboneError, match="would shift with it; put the adapter on a frozen_copy"
    ):
        backbone.add_role("value", LoraConfig(), 0)
    with pytest.raises(BackboneError, match="frozen_copy"):
        backbone.load_role("reward", tmp_path)
    adapted = Backbone.load(tiny_model, "float32")
    adapted.add_role("policy", LoraConfig(), 0)
    with pytest.raises(BackboneError, match="lora=null trains the base itself, alone"):
        adapted.add_role("value", None, 0)
    with pytest.raises(BackboneError, match="load it with train_fully"):
        Backbone.load(tiny_model, "bfloat16").add_role("policy", None, 0)


def test_a_saved_model_names_the_end_that_its_template_writes(make_tiny_model, tmp_path):
    """As vLLM and transformers read it, whether the base was trained or an adapter merged."""
    shape = {"template": GEMMA.template, "special": GEMMA.special, "eos": GEMMA.eos}
    model = make_tiny_model(**shape, bos=GEMMA.bos)
    tokenizer = AutoTokenizer.from_pretrained(model)
    eos, end = tokenizer.convert_tokens_to_ids([GEMMA.eos, GEMMA.end])
    assert GenerationConfig.from_pretrained(model).eos_token_id == eos  # without the template's

    full = whole(model)
    full.save_role("policy", tmp_path / "full")
    assert GenerationConfig.from_pretrained(tmp_path / "full").eos_token_id == [eos, end]
    full.save_role("policy", tmp_path / "full")
    assert GenerationConfig.from_pretrained(tmp_path / "full").eos_token_id == [eos, end]

    adapted = Backbone.load(model, "float32")
    adapted.add_role("policy", LoraConfig(), 0)
    adapted.save_role("policy", tmp_path / "adapter")
    merged = merge_adapter(model, tmp_path / "adapter", tmp_path / "merged")
    assert GenerationConfig.from_pretrained(merged).eos_token_id == [eos, end]


def test_a_saved_model_whose_template_ends_with_eos_keeps_its_one_end(tiny_model, tmp_path):
    whole(tiny_model).save_role("policy", tmp_path)
    ends = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert ends == AutoTokenizer.from_pretrained(tiny_model).eos_token_id
