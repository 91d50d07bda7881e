import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from hardware.memory import GIB
from rlaif.batching.encode import Row, pad
from rlaif.generation.base import FolderModel, SamplingError, bytes_per_token
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import (
    SAMPLERS,
    SamplingEngine,
    choose_engine,
    open_folder_sampler,
    open_sampler,
)
from rlaif.generation.transformers import (
    PolicyModel,
    TransformersSampler,
    draw_tokens,
    next_tokens,
    nucleus,
)
from rlaif.generation.vllm import VLLMSampler
from rlaif.generation.weight_sync import hand_over
from rlaif.models.backbone import Backbone, LoraConfig

PROMPTS = [[1, 5, 6, 7, 8], [1], [4, 3], [1, 5, 6, 7, 8], [9, 9, 9]]
SEEDS = [11, 22, 33, 44, 55]


@pytest.fixture
def backbone(tiny_model):
    """A policy whose adapter has moved the base."""
    made = Backbone.load(tiny_model, "float32")
    made.add_role("policy", LoraConfig(), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.role_parameters("policy").values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
    return made


@pytest.fixture
def sampler(backbone):
    return open_sampler("transformers", backbone, 64, 1.0)


def assert_same(found, expected):
    """To the token; the log-probs as far as batches of other shapes allow."""
    assert [(g.ids, g.complete) for g in found] == [(g.ids, g.complete) for g in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


# ── a draw ───────────────────────────────────────────────────────────────────────────────────


def test_a_draw_is_the_first_token_whose_cumulated_probability_is_over_u():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(5, 4)  # log 0 is -inf
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.3001, 0.9999])
    tokens, logprobs = draw_tokens(logits, uniform)
    assert tokens.tolist() == [0, 0, 1, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([0.1, 0.1, 0.2, 0.7, 0.7])


def test_over_a_fine_grid_of_u_each_token_is_drawn_as_often_as_it_is_probable():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    grid = (torch.arange(10_000) + 0.5) / 10_000
    tokens, _ = draw_tokens(logits.expand(10_000, 50), grid)
    shares = torch.bincount(tokens, minlength=50) / 10_000
    torch.testing.assert_close(shares, logits.softmax(-1), atol=2e-4, rtol=0)


def test_temperature_0_takes_the_most_probable_token_whatever_u_is():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(3, 3)
    tokens, logprobs = next_tokens(logits, torch.tensor([0.0, 0.5, 0.9999]), 0, 1.0)
    assert tokens.tolist() == [1, 1, 1]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[:, 1])


def test_the_nucleus_is_the_fewest_tokens_that_have_its_mass():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log()
    for top_p, kept in [
        (0.01, [3]),
        (0.69, [3]),
        (0.71, [1, 3]),
        (0.89, [1, 3]),
        (0.95, [0, 1, 3]),
    ]:
        cut = nucleus(logits.expand(2, 4), top_p)
        assert (cut > -torch.inf).nonzero()[:, 1].tolist() == kept * 2
        torch.testing.assert_close(cut[0, kept], logits[kept])


def test_a_draw_from_the_nucleus_has_the_logprob_of_what_was_drawn_from():
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(3, 4)
    tokens, logprobs = next_tokens(logits, torch.tensor([0.0, 0.2221, 0.2223]), 1.0, 0.8)
    assert tokens.tolist() == [1, 1, 3]
    assert logprobs.exp().tolist() == pytest.approx([2 / 9, 2 / 9, 7 / 9])


# ── transformers ─────────────────────────────────────────────────────────────────────────────


def test_the_logprobs_are_the_trainers_own_at_the_temperature(sampler, backbone):
    assert sampler.exact
    drawn = sampler.generate(PROMPTS, 12, 0.7, SEEDS)
    rows = [Row("", (*p, *g.ids), len(p)) for p, g in zip(PROMPTS, drawn, strict=True)]
    batch = pad(rows)
    again = backbone.logprobs("policy", batch, temperature=0.7)
    base = backbone.logprobs(None, batch, temperature=0.7)
    for found, mask, g in zip(again, batch.response_mask, drawn, strict=True):
        torch.testing.assert_close(found[mask], torch.tensor(g.logprobs), atol=1e-5, rtol=1e-5)
    assert (again - base).abs().max() > 0.1  # so it is the policy's, not the base's


def test_in_bfloat16_they_are_not_said_to_be_the_trainers_own(tiny_model):
    backbone = Backbone.load(tiny_model, "bfloat16")
    backbone.add_role("policy", LoraConfig(), 0)
    sampler = open_sampler("transformers", backbone, 64, 1.0)
    assert not sampler.exact
    assert len(sampler.generate(PROMPTS, 4, 1.0, SEEDS)) == 5


def test_a_response_depends_on_its_own_seed_and_not_on_its_neighbors(sampler):
    together = sampler.generate(PROMPTS, 12, 1.0, SEEDS)
    alone = [sampler.generate([p], 12, 1.0, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert_same(alone, together)
    assert_same(sampler.generate(PROMPTS[::-1], 12, 1.0, SEEDS[::-1]), together[::-1])
    assert together[0].ids != together[3].ids  # one prompt, two seeds
    twice = sampler.generate([PROMPTS[0]] * 2, 12, 1.0, [7, 7])
    assert twice[0] == twice[1]


def test_the_cache_is_bounded_and_the_bound_changes_no_response(backbone):
    # keys and values, 2 layers, 2 heads of width 8, float32
    assert bytes_per_token(backbone) == 2 * 2 * 2 * 8 * 4
    room = 2 * 64 * bytes_per_token(backbone) / GIB  # two rows of 64 tokens
    small = TransformersSampler(PolicyModel(backbone), 64, room)
    batches = []
    trunk = backbone.trunk.forward
    backbone.trunk.forward = lambda **how: batches.append(len(how["input_ids"])) or trunk(**how)
    found = small.generate(PROMPTS, 12, 1.0, SEEDS)
    assert max(batches) == 2
    assert_same(
        found, TransformersSampler(PolicyModel(backbone), 64, 1.0).generate(PROMPTS, 12, 1.0, SEEDS)
    )


def test_equal_prompts_are_read_once_and_ended_rows_are_no_longer_computed(sampler, backbone):
    batches = []
    trunk = backbone.trunk.forward
    backbone.trunk.forward = lambda **how: batches.append(len(how["input_ids"])) or trunk(**how)
    drawn = sampler.generate([[1, 5]] * 40, 12, 2.0, range(40))
    assert batches[0] == 1
    lengths = [len(g.ids) for g in drawn]
    assert min(lengths) < max(lengths)
    assert batches[1:] == [sum(n > at for n in lengths) for at in range(1, max(lengths))]


def test_a_response_ends_with_its_end_token_or_is_incomplete(sampler):
    drawn = sampler.generate([[1, 5 + i % 50] for i in range(60)], 40, 2.0, range(60))
    assert any(g.complete for g in drawn)
    assert not all(g.complete for g in drawn)
    for g in drawn:
        assert g.complete == (g.ids[-1] == 2)
        assert 2 not in g.ids[:-1]
        assert len(g.ids) == len(g.logprobs)
        assert g.complete or len(g.ids) == 40


def test_sampling_leaves_the_weights_and_the_global_generator_alone(sampler, backbone):
    before = {n: p.detach().clone() for n, p in backbone.model.named_parameters()}
    state = torch.get_rng_state()
    sampler.sync()
    sampler.generate(PROMPTS, 4, 1.0, SEEDS)
    sampler.close()
    assert all(torch.equal(p, before[n]) for n, p in backbone.model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fully_trained_policy_is_sampled_from_its_present_weights(tiny_model):
    backbone = Backbone.load(tiny_model, "float32", train_fully=True)
    backbone.add_role("policy", None, 0)
    sampler = open_sampler("transformers", backbone, 64, 1.0)
    before = sampler.generate(PROMPTS, 8, 1.0, SEEDS)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter.mul_(1.3)
    drawn = sampler.generate(PROMPTS, 8, 1.0, SEEDS)
    assert drawn != before
    batch = pad([Row("", (*p, *g.ids), len(p)) for p, g in zip(PROMPTS, drawn, strict=True)])
    values = backbone.logprobs("policy", batch)[batch.response_mask]
    drawn_values = torch.tensor([value for g in drawn for value in g.logprobs])
    torch.testing.assert_close(values, drawn_values, atol=1e-5, rtol=1e-5)


# ── which engine, and what it needs ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("installed", "processes", "engine"),
    [(True, 1, "vllm"), (False, 1, "transformers"), (True, 2, "transformers")],
)
def test_auto_is_vllm_where_it_is_installed_and_training_is_one_process(
    monkeypatch, installed, processes, engine
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert choose_engine("auto", processes) == engine
    assert choose_engine("transformers", processes) == "transformers"


def test_vllm_that_cannot_be_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SamplingError, match=r"of 2 processes: .*engine=transformers"):
        choose_engine("vllm", 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SamplingError, match=r"not installed; .*\[vllm\].*make .*=transformers$"):
        choose_engine("vllm")


def test_a_new_engine_is_a_line_of_the_table(monkeypatch, backbone):
    opened = []
    new = SamplingEngine(
        "Echo", "", True, lambda *policy: opened.append(policy), lambda model: opened.append(model)
    )
    monkeypatch.setitem(SAMPLERS, "echo", new)
    assert SamplingConfig(engine="echo").engine == "echo"
    assert choose_engine("echo", 2) == "echo"
    open_sampler("echo", backbone, 64, 0.1)
    folder = FolderModel("m", None, "float32", 64, 0.1, 2)
    open_folder_sampler("echo", folder)
    assert opened == [(backbone, 64, 0.1), folder]


def test_an_engine_outside_this_process_is_refused(monkeypatch, backbone):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(SamplingError, match=r"VLLM_ENABLE_V1_MULTIPROCESSING=1 is set.*unset it"):
        VLLMSampler(backbone, 64, 0.1)


def test_a_vllm_that_has_read_its_settings_already_is_refused(monkeypatch, backbone):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    read = SimpleNamespace(VLLM_ENABLE_V1_MULTIPROCESSING=True)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(envs=read))
    monkeypatch.setitem(sys.modules, "vllm.envs", read)
    with pytest.raises(SamplingError, match="vLLM was used in this process before"):
        VLLMSampler(backbone, 64, 0.1)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ


class VLLMStandIn:
    """What `hand_over` needs of vLLM's LLM."""

    def __init__(self, resets: bool = True):
        self.resets = resets
        self.calls = []

    def collective_rpc(self, method, args):
        self.calls.append((method, *args))

    def reset_prefix_cache(self):
        self.calls.append("reset")
        return self.resets


def test_weights_are_handed_over_before_the_prefixes_are_forgotten():
    engine = VLLMStandIn()
    hand_over(engine, [("a", torch.ones(1))])
    assert engine.calls == [("take_weights", [("a", torch.ones(1))]), "reset"]


def test_prefixes_that_could_not_be_forgotten_are_no_silent_success():
    with pytest.raises(RuntimeError, match="kept its prefix cache"):
        hand_over(VLLMStandIn(resets=False), [])
