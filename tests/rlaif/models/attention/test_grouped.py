"""Our attention against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rlaif.batching.encode import Pair, Row
from rlaif.batching.prefix_sharing import pad_packs
from rlaif.models.attention import grouped
from rlaif.models.attention.grouped import AttentionInputError, grouped_attention
from rlaif.models.backbone import Backbone, LoraConfig
from tests.support.training.perturb import shaken

PAIR = Pair("p", Row("c", (1, 5, 6, 7, 2), 3), Row("r", (1, 5, 6, 8), 3), 1.0, {})
SHORT = Pair("q", Row("c", (1, 9), 1), Row("r", (1, 2), 1), 1.0, {})


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_it_is_torchs_in_value_and_gradient(key_heads):
    torch.manual_seed(0)
    query = torch.randn(3, 4, 5, 8, requires_grad=True)
    key = torch.randn(3, key_heads, 6, 8, requires_grad=True)
    value = torch.randn(3, key_heads, 6, 8, requires_grad=True)
    allowed = torch.rand(3, 1, 5, 6) < 0.7
    allowed[..., 0] = True
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, scale=0.3, enable_gqa=True
    )
    found = grouped_attention(query, key, value, allowed, 0.3)
    torch.testing.assert_close(found, expected)
    outside = torch.randn_like(found)
    inputs = (query, key, value)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, outside), torch.autograd.grad(expected, inputs, outside)
    )


def test_a_row_that_may_look_nowhere_stays_finite():
    query = torch.randn(1, 1, 2, 4)
    allowed = torch.tensor([[[[False, False], [True, False]]]])
    assert grouped_attention(query, query, query, allowed, 0.5).isfinite().all()


@pytest.mark.parametrize("train_fully", [False, True])
def test_a_bfloat16_model_is_as_near_to_float32_as_with_torchs(tiny_model, train_fully):
    def ends(dtype, implementation=None):
        """Of a pair in a batch, and the gradient of what trains."""
        backbone = Backbone.load(tiny_model, dtype, train_fully)
        backbone.add_role("policy", None if train_fully else LoraConfig(), 0)
        if implementation:
            backbone.model.set_attn_implementation(implementation)
        if not train_fully:
            shaken(backbone, "policy", std=0.1)
        hidden = backbone.ends("policy", pad_packs([PAIR.rows, SHORT.rows])).float()
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        trained = backbone.role_parameters("policy").values()
        gradients = [p.grad.flatten() for p in trained if p.grad is not None]
        return torch.cat([hidden.detach().flatten(), torch.cat(gradients)])

    exact, ours, torchs = ends("float32"), ends("bfloat16"), ends("bfloat16", "sdpa")
    assert not torch.equal(ours, torchs)  # so it was ours that was asked
    assert (ours - exact).norm() < 1.5 * (torchs - exact).norm()


def test_in_float32_and_for_single_tokens_torchs_kernel_is_asked(tiny_model):
    ids = torch.tensor([[1, 5, 6, 7]])
    for dtype, width in (("float32", 4), ("bfloat16", 1)):
        backbone = Backbone.load(tiny_model, dtype)
        ours = backbone.hidden_states(None, ids[:, :width])
        backbone.model.set_attn_implementation("sdpa")
        assert torch.equal(backbone.hidden_states(None, ids[:, :width]), ours)


def test_values_may_be_narrower_than_keys():
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    value, allowed = torch.randn(2, 2, 5, 3), torch.ones(1, 1, 5, 5, dtype=torch.bool).tril_()
    found = grouped_attention(query, key, value, allowed, 0.3)
    expected = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected)


def attention(dtype=torch.bfloat16, mask=None, is_causal=None, **how):
    """What a layer gets from the registered function, and torch's kernel on the same numbers."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=generator).to(dtype)
    module = torch.nn.Module()
    found, _ = grouped._attention(module, query, key, value, mask, is_causal=is_causal, **how)
    kernel = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None and is_causal is not False
    )
    return found, kernel.transpose(1, 2)


@pytest.mark.parametrize("keyword", ["softcap", "s_aux", "something_new"])
def test_an_input_that_is_not_computed_is_an_error_and_none_is_not(keyword):
    with pytest.raises(AttentionInputError, match=f"^{keyword}$"):
        attention(**{keyword: 2.0})
    attention(**{keyword: None}, sliding_window=4, use_cache=False)


@pytest.mark.parametrize(
    "how",
    [{"is_causal": False}, {"mask": torch.zeros(1, 1, 5, 5, dtype=torch.bfloat16).triu()}, {}],
)
def test_masks_of_every_kind_are_those_of_torchs_kernel(how):
    found, expected = attention(**how)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_a_bias_by_position_is_added():
    bias = torch.linspace(-3, 3, 50).view(1, 2, 5, 5).bfloat16()
    plain, _ = attention(torch.float32)
    found, _ = attention(position_bias=bias)
    assert (found.float() - plain).abs().max() > 0.2
    expected, _ = attention(torch.float32, position_bias=bias.float())
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
