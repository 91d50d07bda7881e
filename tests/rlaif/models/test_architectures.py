"""Models of many classes: log-probs as their class computes them, or a refusal in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    T5ForConditionalGeneration,
)

from rlaif.batching.encode import Row, pad
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.models.backbone import Backbone, BackboneError, LoraConfig
from rlaif.models.causal_lm import CausalLM
from rlaif.models.merge import merge_adapter
from tests.support.training.architectures import (
    ALONE,
    OWN_ATTENTION,
    REFUSED,
    SHARED,
    save_architecture,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:torch.*"),
]

EXPERTS = ("MixtralConfig", "Qwen3MoeConfig", "DeepseekV3Config")
PROMPT = (1, 40, 77, 90, 12, 33)
ROWS = (
    Row("long", (*PROMPT, 9, 120, 45, 201, 7, 66, 2), 6),
    Row("short", (*PROMPT, 150, 31, 2), 6),
)
FLOAT32 = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def saved(tiny_model, tmp_path):
    """saved(config, settings) → the folder of a random model."""

    def save(config, settings, build=None):
        return save_architecture(tmp_path / config, tiny_model, config, settings, build)

    return save


def own_logprobs(folder, dtype=torch.float32):
    """Of the rows' response tokens, each row alone through the class's own forward: (N,)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    values = []
    for row in ROWS:
        with torch.no_grad():
            log_pi = model.eval()(torch.tensor([row.ids])).logits[0].float().log_softmax(-1)
        values += [log_pi[t - 1, row.ids[t]] for t in range(row.start, len(row.ids))]
    return torch.stack(values)


def alone(backbone, role=None):
    batch = pad(ROWS)
    return backbone.logprobs(role, batch)[batch.response_mask]


def shared(backbone, role=None):
    batch = pad_packs([ROWS])
    return backbone.logprobs_from(backbone.predicting(role, batch), batch)


@pytest.mark.parametrize("config", SHARED)
def test_log_probs_are_the_class_s_own_in_rows_alone_and_shared(config, saved, capsys):
    folder = saved(config, SHARED[config])
    backbone = Backbone.load(folder, "float32")
    expected = own_logprobs(folder)
    torch.testing.assert_close(alone(backbone), expected, **FLOAT32)
    torch.testing.assert_close(shared(backbone), expected, **FLOAT32)
    assert "own attention" not in capsys.readouterr().err


@pytest.mark.parametrize("config", ALONE)
def test_where_responses_cannot_share_a_row_rows_of_their_own_are_exact(config, saved):
    folder = saved(config, ALONE[config])
    backbone = Backbone.load(folder, "float32")
    torch.testing.assert_close(alone(backbone), own_logprobs(folder), **FLOAT32)
    assert backbone.pack_rows(ROWS) == [[0], [1]]


@pytest.mark.parametrize("config", OWN_ATTENTION)
def test_attention_that_is_not_ours_is_left_to_the_class(config, saved, capsys):
    folder = saved(config, OWN_ATTENTION[config])
    backbone = Backbone.load(folder, "float32")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2][:13] for line in said if "own attention" in line] == [
        "computed with"
    ]
    expected = own_logprobs(folder)
    torch.testing.assert_close(alone(backbone), expected, **FLOAT32)
    packs = backbone.pack_rows(ROWS)
    batch = pad_packs([[ROWS[i] for i in pack] for pack in packs])
    values = backbone.logprobs_from(backbone.predicting(None, batch), batch)
    torch.testing.assert_close(values, expected, **FLOAT32)


@pytest.mark.parametrize("config", REFUSED)
def test_logits_that_are_more_than_w_h_are_refused_by_name(config, saved):
    settings, words = REFUSED[config]
    folder = saved(config, settings)
    with pytest.raises(BackboneError, match=rf"unsupported head: .*\({words}\); choose another"):
        Backbone.load(folder, "float32")


def test_an_encoder_decoder_is_refused_in_words(saved, tiny_model):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    folder = saved("T5Config", {"vocab_size": 300, **sizes}, T5ForConditionalGeneration)
    message = r"an encoder-decoder model \(t5\); choose a decoder-only language model"
    with pytest.raises(BackboneError, match=message):
        Backbone.load(folder, "float32")


@pytest.mark.parametrize("config", ["DeepseekV3Config", "GptOssConfig", "BloomConfig"])
def test_in_bfloat16_log_probs_differ_by_rounding_only(config, saved):
    """DeepSeek's value heads are narrower than its keys."""
    folder = saved(config, (SHARED | OWN_ATTENTION)[config])
    backbone = Backbone.load(folder, "bfloat16")
    exact = own_logprobs(folder)
    assert (alone(backbone) - exact).abs().median() < 0.05


@pytest.mark.parametrize("config", ["MambaConfig", "BloomConfig"])
def test_a_model_without_positions_reads_any_length(config, saved):
    folder = saved(config, (ALONE | OWN_ATTENTION)[config])
    assert Backbone.load(folder, "float32").context > 1_000_000


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("LlamaConfig", {}),
        ("GptOssConfig", {}),  # sinks and caps, which torch's kernel would leave out
        ("Gemma2Config", {}),
        ("FalconConfig", {"alibi": True}),  # whose own call of torch's kernel misplaces padded rows
        ("GraniteConfig", {}),  # a head that is refused in training
    ],
)
def test_a_sampler_computes_what_the_class_does(config, settings, saved, tiny_model):
    refused = {name: settings for name, (settings, _) in REFUSED.items()}
    folder = saved(config, (refused | SHARED | OWN_ATTENTION)[config] | settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = CausalLM.load(folder, tokenizer, "float32")
    width = len(ROWS[0].ids)
    ids = torch.tensor([[*([0] * (width - len(row.ids))), *row.ids] for row in ROWS])
    mask = torch.tensor([[int(i >= width - len(row.ids)) for i in range(width)] for row in ROWS])
    found = model.next_logits(ids, mask, DynamicCache(config=model.model.config))
    own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    expected = torch.stack([own(torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", EXPERTS)
def test_default_lora_trains_a_mixture_of_experts_and_leaves_its_routers(
    config, saved, capsys, tmp_path
):
    folder = saved(config, SHARED[config])
    backbone = Backbone.load(folder, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    assert capsys.readouterr().err.count("LoRA leaves the routers and the experts' tensors") == 1
    before = {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
    trained = backbone.role_parameters("policy")
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = -alone(backbone, "policy").mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[1] < losses[0]
    after = dict(backbone.model.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved
    assert moved <= trained.keys()
    assert any(name.endswith("mlp.gate.weight") for name in before)  # a router, among the unmoved
    # and what was trained is read again, alone and folded into its base
    expected = alone(backbone, "policy").detach()
    backbone.save_role("policy", tmp_path / "adapter")
    again = Backbone.load(folder, "float32")
    again.load_role("policy", tmp_path / "adapter")
    torch.testing.assert_close(alone(again, "policy"), expected)
    merged = merge_adapter(folder, tmp_path / "adapter", tmp_path / "merged", "float32")
    torch.testing.assert_close(own_logprobs(merged), expected, atol=1e-4, rtol=1e-4)


def test_the_guide_lists_every_class_of_the_table():
    guide = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("|")]
    for classes in (SHARED, ALONE, OWN_ATTENTION):
        names = {config.removesuffix("Config") for config in classes}
        assert any(names <= set(re.findall(r"\w+", row)) for row in rows), names
    for config in REFUSED:
        assert config.removesuffix("Config").removesuffix("Text") in guide
