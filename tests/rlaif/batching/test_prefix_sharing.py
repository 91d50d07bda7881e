"""Responses that share their prompt's row are, value and gradient, what each is alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.batching.encode import Pair, Row, pad
from rlaif.batching.prefix_sharing import by_prompt, share, shared_length
from rlaif.models.backbone import Backbone, LoraConfig
from tests.support.training.perturb import shaken


def pack(prompt, *responses):
    return [Row(str(i), (*prompt, *said), len(prompt)) for i, said in enumerate(responses)]


# ── the layout ─────────────────────────────────────────────────────────────────────────────────


def test_responses_to_one_prompt_share_a_row():
    batch = share([pack((7, 8, 9), (5, 2), (6,), (4, 3)), pack((1,), (4,), (3,))])
    assert batch.ids.tolist() == [[7, 8, 9, 5, 2, 6, 4, 3], [1, 4, 3, 0, 0, 0, 0, 0]]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 3, 3, 4]
    assert batch.positions[1, :3].tolist() == [0, 1, 1]
    assert batch.targets.tolist() == [5, 2, 6, 4, 3, 4, 3]
    assert batch.before.tolist() == [2, 3, 2, 2, 6, 8, 8]  # first tokens follow the prompt's end
    assert batch.mask.sum(1).tolist() == [2, 1, 2, 1, 1]
    assert batch.mask[1].tolist() == [True, False]
    assert batch.ends.tolist() == [4, 5, 7, 9, 10]
    seen = batch.attention[0, 0].int().tolist()
    assert seen[4] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert seen[5] == [1, 1, 1, 0, 0, 1, 0, 0]
    assert seen[7] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert (batch.tokens, batch.longest) == (11, 5)


def test_responses_that_begin_alike_are_computed_apart():
    assert shared_length(pack((1,), (5, 5, 2), (5, 5, 3))) == 7


def test_rows_alone_need_no_mask():
    batch = share([pack((7, 8), (5, 2)), pack((1,), (4,))])
    assert batch.attention is batch.positions is None
    assert batch.ids.tolist() == [[7, 8, 5, 2], [1, 4, 0, 0]]
    assert (batch.before.tolist(), batch.ends.tolist()) == ([1, 2, 4], [3, 5])


# ── what is packed ─────────────────────────────────────────────────────────────────────────────

tokens = st.lists(st.integers(0, 250), min_size=1, max_size=9)
prompts = st.sampled_from([(1,), (1, 2), (2, 1, 3), (2, 1, 4)])


@given(st.lists(st.tuples(prompts, tokens), max_size=12), st.integers(1, 60), st.integers(1, 40))
def test_every_row_is_packed_once_with_rows_of_its_prompt_where_it_saves_work(said, width, most):
    rows = [Row(str(i), (*p, *r), len(p)) for i, (p, r) in enumerate(said)]
    packs = by_prompt(rows, width, most)
    assert sorted(i for places in packs for i in places) == list(range(len(rows)))
    for places in packs:
        own = [rows[i] for i in places]
        assert len({row.ids[: row.start] for row in own}) == 1
        if len(own) > 1:
            assert shared_length(own) <= most
            assert cost(own, width) <= sum(cost([row], width) for row in own)


def cost(own, width):
    """In pairs of tokens that attend: attention of the whole row, and the rest of each token."""
    return shared_length(own) ** 2 + width * shared_length(own)


def test_a_pack_is_filled_before_another_is_begun():
    rows = pack((1, 2), (3, 3), (4,), (5, 5, 5)) + pack((1, 3), (4,))
    assert by_prompt(rows, 100, 5) == [[0, 1], [2], [3]]
    assert by_prompt(rows, 100, 8) == by_prompt(rows, 100) == [[0, 1, 2], [3]]


def test_long_responses_to_a_short_prompt_stay_apart():
    long, short = [(7,) * 500] * 8, [(7,) * 48] * 8
    assert len(by_prompt(pack((1,) * 20, *long), 576)) == 8
    assert len(by_prompt(pack((1,) * 1000, *long), 576)) == 2
    assert len(by_prompt(pack((1,) * 150, *short), 576)) == 1


# ── what a model says of it ────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def policy(tiny_model):
    made = Backbone.load(tiny_model, "float32")
    made.add_role("policy", LoraConfig(), 0)
    shaken(made, "policy", std=0.1)
    return made


slow_fixture = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
packs = st.lists(
    st.builds(lambda p, said: pack(p, *said), tokens, st.lists(tokens, min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def adapter_gradient(backbone, value):
    found = torch.autograd.grad(value, list(backbone.role_parameters("policy").values()))
    return torch.cat([gradient.flatten() for gradient in found])


def assert_same_vector(found, expected):
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@slow_fixture
@given(packs)
def test_responses_that_share_a_prompt_are_the_rows_apart(policy, packs):
    rows = pad([row for rows in packs for row in rows])
    apart = policy.logprobs("policy", rows, 0.7)  # (R, T)
    batch = share(packs)
    each = policy.logprobs_from(policy.predicting("policy", batch), batch, 0.7)  # (N,)
    torch.testing.assert_close(each, apart[rows.response_mask], atol=1e-5, rtol=1e-5)
    found = policy.response_sums("policy", batch, 0.7)
    torch.testing.assert_close(found.logprobs, apart.sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(found.tokens, rows.response_mask.sum(1))
    weights = torch.linspace(1, 2, len(apart))  # so that equal responses do not cancel out
    gradient = adapter_gradient(policy, found.logprobs @ weights)
    assert_same_vector(gradient, adapter_gradient(policy, apart.sum(1) @ weights))


@slow_fixture
@given(packs)
def test_the_ends_of_shared_responses_are_those_of_the_rows_apart(policy, packs):
    rows = pad([row for rows in packs for row in rows])
    hidden = policy.hidden_states("policy", rows.ids)
    apart = hidden[torch.arange(len(rows.ids)), rows.last]
    together = policy.ends("policy", share(packs))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(1, 2, apart.numel()).view_as(apart)
    gradient = adapter_gradient(policy, (together * weights).sum())
    assert_same_vector(gradient, adapter_gradient(policy, (apart * weights).sum()))


def test_rows_are_shared_only_where_layers_keep_their_responses_apart(tiny_model, monkeypatch):
    backbone = Backbone.load(tiny_model, "float32")
    rows = pack((1, 2, 3), (4, 5), (6,))
    config, model, batch = backbone.model.config, type(backbone.model), share([rows])
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
def test_pairs_together_and_apart_are_the_rows_apart(policy, pairs, budget):
    """The width of the tiny model, 32, makes both kinds."""
    batches = policy.pair_batches(pairs, budget)
    assert sorted(place for places in batches for place in places) == list(range(len(pairs)))
    for places in batches:
        own = [pairs[i] for i in places]
        batch = policy.batch_pairs(own)
        assert len(own) == 1 or batch.ids.numel() <= budget
        rows = pad([row for each in own for row in each.rows])
        apart = policy.logprobs("policy", rows).sum(1)
        found = policy.response_sums("policy", batch).logprobs
        torch.testing.assert_close(found, apart, atol=1e-5, rtol=1e-5)


def test_transformers_says_which_models_have_a_state_or_no_mask_of_their_own():
    """RWKV and RecurrentGemma carry a response into the next; Bloom takes no such mask."""
    import transformers

    for name, shareable in {"Llama": True, "Qwen2": True, "GPTNeoX": True, "Rwkv": False,
                            "RecurrentGemma": False, "Bloom": False}.items():  # fmt: skip
        model = getattr(transformers, f"{name}ForCausalLM")
        assert (model._supports_attention_backend and not model._is_stateful) == shareable, name
