"""The check at load, with faults put into what it checks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaModel

from rlaif.batching.encode import Row, pad
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.models import backbone as backbone_module
from rlaif.models import folder as folder_module
from rlaif.models.attention import check, grouped
from rlaif.models.attention.check import CheckOutcome
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.causal_lm import CausalLM
from tests.support.training.architectures import (
    OWN_ATTENTION,
    REFUSED,
    save_architecture,
)

ROWS = (Row("a", (1, 5, 6, 7, 8, 9, 2), 3), Row("b", (1, 5, 6, 40, 2), 3))
BATCH = pad(ROWS)


@pytest.fixture
def saved(tiny_model, tmp_path):
    """saved(config, settings) → the folder of a random model."""
    return lambda config, settings: save_architecture(
        tmp_path / config, tiny_model, config, settings
    )


def without_mask(module, query, key, value, mask, scaling=None, **how):
    """torch's attention, where every token sees every other."""
    return grouped_sdpa(module, query, key, value, None, scaling=scaling, is_causal=False)


grouped_sdpa = grouped.sdpa_attention_forward


@pytest.mark.parametrize("train_fully", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_takes_three_forward_passes_and_leaves_no_trace(
    tiny_model, monkeypatch, dtype, train_fully
):
    """Of random numbers, log-probs, and gradients: those of a model that was not checked."""

    def loaded():
        backbone = Backbone.load(tiny_model, dtype, train_fully)
        backbone.add_role("policy", None if train_fully else LoraConfig(), 0)
        values = backbone.logprobs("policy", BATCH)
        (-values.sum()).backward()
        parameters = backbone.role_parameters("policy").values()
        return values, [p.grad for p in parameters if p.grad is not None]

    calls: Counter[str] = Counter()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: calls.update([type(module).__name__])
    )
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with hook:
        Backbone.load(tiny_model, dtype, train_fully)
    assert calls[LlamaModel.__name__] == 3
    assert torch.equal(torch.get_rng_state(), state)
    checked, gradients = loaded()
    with monkeypatch.context() as patch:
        unchecked = CheckOutcome(grouped.NAME, True, (), "")
        patch.setattr(backbone_module, "examine", lambda *a, **k: unchecked)
        values, expected = loaded()
    assert torch.equal(checked, values)
    assert all(map(torch.equal, gradients, expected))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_missing_causal_mask_is_seen_and_the_class_s_own_attention_used(
    tiny_model, monkeypatch, capsys, dtype
):
    monkeypatch.setattr(grouped, "sdpa_attention_forward", without_mask)
    monkeypatch.setattr(grouped, "_is_grouped", lambda *a: False)
    backbone = Backbone.load(tiny_model, dtype)
    said = capsys.readouterr().err
    assert (
        "computed with LlamaForCausalLM's own attention, which can be slower: log-probs of 12 "
        in said
    )
    assert said.count("\n") == 1
    own = AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=backbone.dtype, attn_implementation="eager"
    )
    log_pi = own(torch.tensor([ROWS[0].ids])).logits[0].float().log_softmax(-1)
    expected = torch.stack([log_pi[t - 1, ROWS[0].ids[t]] for t in range(3, 7)]).detach()
    tolerance = 1e-5 if dtype == "float32" else 0.2
    torch.testing.assert_close(
        backbone.logprobs(None, BATCH)[0, 3:7], expected, atol=tolerance, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "keyword"), [("GptOssConfig", "s_aux"), ("Gemma2Config", "softcap")]
)
def test_an_ignored_sink_or_cap_is_seen_by_name_and_by_number(
    saved, monkeypatch, capsys, config, keyword
):
    folder = saved(config, OWN_ATTENTION[config])
    monkeypatch.setattr(check, "takes_ours", lambda model: True)
    Backbone.load(folder, "float32")
    assert f"can be slower: its attention has the input {keyword}" in capsys.readouterr().err
    # the same, if the kernel did not know that it leaves something out
    monkeypatch.setattr(grouped, "_KNOWN_INPUTS", grouped._KNOWN_INPUTS | {keyword})
    Backbone.load(folder, "float32")
    assert "nats off the class's own, 0.001 allowed" in capsys.readouterr().err


@pytest.mark.parametrize("config", [name for name in REFUSED if name != "PhiConfig"])
def test_caps_and_multipliers_of_unknown_names_are_seen_by_number(saved, monkeypatch, config):
    settings, words = REFUSED[config]
    monkeypatch.setattr(folder_module, "_SCALED_LOGITS", ())
    if config in ("Gemma2Config", "RecurrentGemmaConfig"):  # 30 caps only the logits of real models
        settings = settings | {words: 2.0}
    with pytest.raises(
        BackboneError,
        match=rf"is not computed exactly here: log-probs of 12 tokens are up to .* nats off the "
        rf"class's own, 0.001 allowed; suspected: .*{words}=.*; choose another model",
    ):
        Backbone.load(saved(config, settings), "float32")


def test_responses_that_see_each_other_get_rows_of_their_own(tiny_model, monkeypatch, capsys):
    def blind(model, attention, dtype):
        width = attention.shape[-1]
        return torch.ones(1, 1, width, width, dtype=torch.bool).tril_().expand_as(attention)

    assert len(Backbone.load(tiny_model, "float32").pack_rows(ROWS)) == 1
    monkeypatch.setattr(backbone_module, "mask_for", blind)
    backbone = Backbone.load(tiny_model, "float32")
    assert backbone.pack_rows(ROWS) == [[0], [1]]
    said = capsys.readouterr().err
    assert "responses to one prompt are computed in rows of their own: log-probs of 12" in said
    with pytest.raises(AssertionError, match="no responses can share a row"):
        backbone.predicting(None, pad_packs([ROWS]))


def test_weights_that_are_not_numbers_are_refused(tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    backbone = Backbone.load(tiny_model, "float32")
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="gives log-probs that are not finite numbers; choose"):
        Backbone.load(str(tmp_path), "float32")
    with pytest.raises(BackboneError, match="gives log-probs that are not finite numbers; choose"):
        CausalLM.load(str(tmp_path), backbone.tokenizer, "float32")


def test_log_probs_that_are_not_numbers_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(
        backbone_module, "token_logprobs", lambda hidden, *a: hidden[:, 0] * float("nan")
    )
    with pytest.raises(BackboneError, match="log-probs of 12 tokens are up to nan nats off"):
        Backbone.load(tiny_model, "float32")


def test_a_class_that_fails_is_refused_in_one_line(tiny_model, monkeypatch):
    def fails(self, *inputs, **how):
        raise IndexError("no such place\nin this model")

    monkeypatch.setattr(LlamaModel, "forward", fails)
    with pytest.raises(BackboneError) as refused:
        Backbone.load(tiny_model, "float32")
    assert str(refused.value).endswith(
        "LlamaForCausalLM cannot be computed (IndexError: no such place); choose another model"
    )


def test_in_bfloat16_a_refusal_says_that_float32_may_help(tiny_model, monkeypatch):
    monkeypatch.setattr(
        backbone_module, "token_logprobs", lambda hidden, *a: hidden[:, 0].float() + 9
    )
    with pytest.raises(BackboneError, match=r"0.25 allowed; set dtype=float32, or choose another"):
        Backbone.load(tiny_model, "bfloat16")


def test_the_second_response_counts_as_much_as_the_first():
    """In a shared row the first is right even where the mask is not obeyed."""
    theirs = torch.zeros(12)
    wrong = torch.cat([torch.zeros(8), torch.ones(4)])
    tolerance = check._TOLERANCES[torch.bfloat16]
    assert check._fault(lambda: wrong, theirs, (8, 4), tolerance)
    assert not check._fault(lambda: 0.2 * wrong, theirs, (8, 4), tolerance)
    flipped = torch.cat([torch.ones(2), torch.zeros(10)])  # a router's choice, of two tokens
    assert not check._fault(lambda: flipped, theirs, (8, 4), tolerance)


def test_a_token_without_an_embedding_is_refused_unless_it_pads(tiny_model, tmp_path):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.model.save_pretrained(tmp_path)
    tokenizer = backbone.tokenizer
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(tmp_path)
    assert Backbone.load(str(tmp_path), "float32").tokenizer.pad_token_id >= 259
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path)
    message = r"1 tokens without an embedding, the first is '<extra>' .* resize_token_embeddings"
    with pytest.raises(BackboneError, match=message):
        Backbone.load(str(tmp_path), "float32")
    with pytest.raises(BackboneError, match=message):
        CausalLM.load(str(tmp_path), tokenizer, "float32")


class FakeShardingGroup:
    """One process of a launch that shards weights; its main process came to `outcome`."""

    sharded = True

    def __init__(self, is_main, outcome):
        self.is_main = is_main
        self.outcome = outcome
        self.given = []

    def gather(self, items):
        self.given += items
        return [self.outcome or items[0], *items]


def test_where_weights_are_sharded_every_process_obeys_the_main_one_s_check(
    tiny_model, monkeypatch
):
    main = FakeShardingGroup(True, None)
    whole = Backbone.load(tiny_model, "float32", workers=main)
    assert main.given == [(CheckOutcome(grouped.NAME, True, (), ""), whole.fingerprint)]
    # another process may hold no weights: it computes nothing, and takes what it is given
    monkeypatch.setattr(LlamaModel, "forward", None)
    outcome = (CheckOutcome("eager", False, (), ""), "of the main process")
    other = Backbone.load(tiny_model, "float32", workers=FakeShardingGroup(False, outcome))
    assert other.model.config._attn_implementation == "eager"
    assert other.fingerprint == "of the main process"
    assert other.pack_rows(ROWS) == [[0], [1]]
    refused = (CheckOutcome("eager", False, (), "not computed; choose another model"), "")
    with pytest.raises(BackboneError, match="not computed; choose another model"):
        Backbone.load(tiny_model, "float32", workers=FakeShardingGroup(False, refused))
