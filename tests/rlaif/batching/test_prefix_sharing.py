"""Responses packed behind one prompt: values and gradients equal those of separate rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.batching.encode import Pair, Row, pad
from rlaif.batching.prefix_sharing import pack_by_prompt, packed_length, pad_packs
from rlaif.models.backbone import Backbone, LoraConfig
from tests.support.training.perturb import shaken


def pack(prompt, *responses):
    return [Row(str(i), (*prompt, *ids), len(prompt)) for i, ids in enumerate(responses)]


# ── the layout ─────────────────────────────────────────────────────────────────────────────────


def test_responses_to_one_prompt_share_a_row():
    batch = pad_packs([pack((7, 8, 9), (5, 2), (6,), (4, 3)), pack((1,), (4,), (3,))])
    assert batch.ids.tolist() == [[7, 8, 9, 5, 2, 6, 4, 3], [1, 4, 3, 0, 0, 0, 0, 0]]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 3, 3, 4]
    assert batch.positions[1, :3].tolist() == [0, 1, 1]
    assert batch.targets.tolist() == [5, 2, 6, 4, 3, 4, 3]
    assert batch.predictors.tolist() == [2, 3, 2, 2, 6, 8, 8]  # first tokens: the prompt's end
    assert batch.mask.sum(1).tolist() == [2, 1, 2, 1, 1]
    assert batch.mask[1].tolist() == [True, False]
    assert batch.last.tolist() == [4, 5, 7, 9, 10]
    visible = batch.attention[0, 0].int().tolist()
    assert visible[4] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert visible[5] == [1, 1, 1, 0, 0, 1, 0, 0]
    assert visible[7] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert (batch.tokens, batch.longest) == (11, 5)


def test_responses_with_a_common_beginning_share_only_the_prompt():
    assert packed_length(pack((1,), (5, 5, 2), (5, 5, 3))) == 7


def test_packs_of_one_row_need_no_mask():
    batch = pad_packs([pack((7, 8), (5, 2)), pack((1,), (4,))])
    assert batch.attention is batch.positions is None
    assert batch.ids.tolist() == [[7, 8, 5, 2], [1, 4, 0, 0]]
    assert (batch.predictors.tolist(), batch.last.tolist()) == ([1, 2, 4], [3, 5])


# ── which rows are packed ────────────────────────────────────────────────────────────────────

tokens = st.lists(st.integers(0, 250), min_size=1, max_size=9)
prompts = st.sampled_from([(1,), (1, 2), (2, 1, 3), (2, 1, 4)])


@given(st.lists(st.tuples(prompts, tokens), max_size=12), st.integers(1, 60), st.integers(1, 40))
def test_every_row_is_packed_once_with_rows_of_its_prompt_where_it_saves_work(drawn, width, most):
    rows = [Row(str(i), (*p, *r), len(p)) for i, (p, r) in enumerate(drawn)]
    packs = pack_by_prompt(rows, width, most)
    assert sorted(i for indices in packs for i in indices) == list(range(len(rows)))
    for indices in packs:
        own = [rows[i] for i in indices]
        assert len({row.ids[: row.start] for row in own}) == 1
        if len(own) > 1:
            assert packed_length(own) <= most
            assert cost(own, width) <= sum(cost([row], width) for row in own)


def cost(own, width):
    """In pairs of tokens: attention over the whole row, and everything else per token."""
    return packed_length(own) ** 2 + width * packed_length(own)


def test_a_pack_is_filled_before_the_next_one_starts():
    rows = pack((1, 2), (3, 3), (4,), (5, 5, 5)) + pack((1, 3), (4,))
    assert pack_by_prompt(rows, 100, 5) == [[0, 1], [2], [3]]
    assert pack_by_prompt(rows, 100, 8) == pack_by_prompt(rows, 100) == [[0, 1, 2], [3]]


def test_long_responses_to_a_short_prompt_are_not_packed():
    long, short = [(7,) * 500] * 8, [(7,) * 48] * 8
    assert len(pack_by_prompt(pack((1,) * 20, *long), 576)) == 8
    assert len(pack_by_prompt(pack((1,) * 1000, *long), 576)) == 2
    assert len(pack_by_prompt(pack((1,) * 150, *short), 576)) == 1


# ── what a model computes ────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def policy(tiny_model):
    backbone = Backbone.load(tiny_model, "float32")
    backbone.add_role("policy", LoraConfig(), 0)
    shaken(backbone, "policy", std=0.1)
    return backbone


slow_fixture = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
packs = st.lists(
    st.builds(
        lambda p, responses: pack(p, *responses), tokens, st.lists(tokens, min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=4,
)


def adapter_gradient(backbone, value):
    gradients = torch.autograd.grad(value, list(backbone.role_parameters("policy").values()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def assert_same_vector(actual, expected):
    assert (actual - expected).norm() <= 1e-5 * expected.norm()


@slow_fixture
@given(packs)
def test_packed_responses_have_the_logprobs_of_separate_rows(policy, packs):
    rows = pad([row for rows in packs for row in rows])
    apart = policy.logprobs("policy", rows, 0.7)  # (R, T)
    batch = pad_packs(packs)
    each = policy.logprobs_from(policy.predicting("policy", batch), batch, 0.7)  # (N,)
    torch.testing.assert_close(each, apart[rows.response_mask], atol=1e-5, rtol=1e-5)
    sums = policy.response_sums("policy", batch, 0.7)
    torch.testing.assert_close(sums.logprobs, apart.sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(sums.tokens, rows.response_mask.sum(1))
    weights = torch.linspace(1, 2, len(apart))  # so that equal responses do not cancel out
    gradient = adapter_gradient(policy, sums.logprobs @ weights)
    assert_same_vector(gradient, adapter_gradient(policy, apart.sum(1) @ weights))


@slow_fixture
@given(packs)
def test_packed_responses_have_the_last_hidden_states_of_separate_rows(policy, packs):
    rows = pad([row for rows in packs for row in rows])
    hidden = policy.hidden_states("policy", rows.ids)
    apart = hidden[torch.arange(len(rows.ids)), rows.last]
    together = policy.ends("policy", pad_packs(packs))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(1, 2, apart.numel()).view_as(apart)
    gradient = adapter_gradient(policy, (together * weights).sum())
    assert_same_vector(gradient, adapter_gradient(policy, (apart * weights).sum()))


def test_rows_are_packed_only_if_every_layer_honors_the_mask(tiny_model, monkeypatch):
    backbone = Backbone.load(tiny_model, "float32")
    rows = pack((1, 2, 3), (4, 5), (6,))
    config, model, batch = backbone.model.config, type(backbone.model), pad_packs([rows])
    monkeypatch.setattr(config, "sliding_window", 5, raising=False)
    backbone.ends(None, batch)  # every token still sees its whole row
    assert backbone.micro_batches(rows, 100) == [[[0, 1]]]
    for owner, name, value in (
        (config, "sliding_window", 4),
        (config, "layer_types", ["linear_attention"]),
        (model, "_is_stateful", True),
        (model, "_supports_attention_backend", False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value, raising=False)
            assert backbone.micro_batches(rows, 100) == [[[1], [0]]]
            with pytest.raises(AssertionError, match="no responses can share a row"):
                backbone.ends(None, batch)


def pair(prompt, chosen, rejected):
    return Pair("p", *pack(prompt, chosen, rejected), 1.0, {})


@slow_fixture
@given(st.lists(st.builds(pair, tokens, tokens, tokens), max_size=6), st.integers(1, 60))
def test_pairs_packed_or_not_have_the_logprobs_of_separate_rows(policy, pairs, budget):
    """With the tiny model's width, 32, some pairs are packed and some are not."""
    batches = policy.pair_batches(pairs, budget)
    assert sorted(place for places in batches for place in places) == list(range(len(pairs)))
    for places in batches:
        own = [pairs[i] for i in places]
        batch = policy.batch_pairs(own)
        assert len(own) == 1 or batch.ids.numel() <= budget
        rows = pad([row for each in own for row in each.rows])
        apart = policy.logprobs("policy", rows).sum(1)
        logprobs = policy.response_sums("policy", batch).logprobs
        torch.testing.assert_close(logprobs, apart, atol=1e-5, rtol=1e-5)


def test_transformers_flags_the_models_that_keep_a_state_or_take_no_mask():
    """RWKV and RecurrentGemma carry state across responses; Bloom takes no such mask."""
    import transformers

    for name, shareable in {"Llama": True, "Qwen2": True, "GPTNeoX": True, "Rwkv": False,
                            "RecurrentGemma": False, "Bloom": False}.items():  # fmt: skip
        model = getattr(transformers, f"{name}ForCausalLM")
        assert (model._supports_attention_backend and not model._is_stateful) == shareable, name
