"""vLLM in the trainer's process, synced with a policy that moves, against transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from rlaif.batching.encode import Row, encode_conversation, pad
from rlaif.data.prompts import load_prompts
from rlaif.generation.base import Generated, SamplingError
from rlaif.generation.engines import open_sampler
from rlaif.generation.vllm import VLLMSampler
from rlaif.models.backbone import Backbone, LoraConfig

pytestmark = [
    pytest.mark.integration,
    # vLLM's own, as it is imported and shut down
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOLERANCE = 1e-3  # nats; measured: 4e-5
SEEDS = range(1, 7)


@pytest.fixture(scope="module")
def backbone(smollm2: Path) -> Backbone:
    made = Backbone.load(str(smollm2), "float32")
    made.add_role("policy", LoraConfig(), 0)
    return made


@pytest.fixture(scope="module")
def prompts(backbone: Backbone) -> list[list[int]]:
    """Three conversations, each of them twice."""
    chosen = load_prompts("quickstart")[:3]
    return [encode_conversation(backbone.tokenizer, p.messages) for p in chosen for _ in range(2)]


@pytest.fixture(scope="module")
def sampler(backbone: Backbone) -> Iterator[VLLMSampler]:
    environment = dict(os.environ)
    set_num_threads, state = torch.set_num_threads, torch.get_rng_state()
    opened = open_sampler("auto", backbone, 512, 0.5)
    assert isinstance(opened, VLLMSampler)
    made = os.environ.keys() - environment.keys()
    assert all(name.startswith("VLLM_") for name in made)
    assert not made & {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"}
    assert torch.set_num_threads is set_num_threads
    assert torch.equal(torch.get_rng_state(), state)
    yield opened
    opened.close()
    opened.close()
    assert not torch.distributed.is_initialized()


def shake(backbone: Backbone, seed: int) -> None:
    """Move the policy by an amount that shows in its log-probs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.role_parameters("policy").values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.02


def off_by(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    drawn: Sequence[Generated],
    temperature: float = 1.0,
    role: str | None = "policy",
) -> float:
    """Largest distance of the sampler's log-probs from transformers', nats."""
    batch = pad([Row("", (*p, *g.ids), len(p)) for p, g in zip(prompts, drawn, strict=True)])
    with torch.no_grad():
        values = backbone.logprobs(role, batch, temperature)[batch.response_mask]
    sampled = torch.tensor([value for g in drawn for value in g.logprobs])
    return float((sampled - values).abs().max())


def test_after_every_sync_the_logprobs_are_those_of_the_present_weights(
    backbone: Backbone, prompts: list[list[int]], sampler: VLLMSampler
) -> None:
    sampler.sync()
    before = sampler.generate(prompts, 8, 1.0, SEEDS)
    assert off_by(backbone, prompts, before) < TOLERANCE
    for seed in range(3):
        shake(backbone, seed)
        assert off_by(backbone, prompts, before) > 0.1  # the weights before show
        sampler.sync()
        drawn = sampler.generate(prompts, 8, 1.0, SEEDS)  # prefixes that were cached before
        assert off_by(backbone, prompts, drawn) < TOLERANCE
        assert off_by(backbone, prompts, drawn, role=None) > 0.1
        before = drawn


def test_the_logprobs_are_those_of_the_tempered_distribution(
    backbone: Backbone, prompts: list[list[int]], sampler: VLLMSampler
) -> None:
    sampler.sync()
    drawn = sampler.generate(prompts, 8, 0.6, SEEDS)
    assert off_by(backbone, prompts, drawn, temperature=0.6) < TOLERANCE
    assert off_by(backbone, prompts, drawn) > 0.1


def test_a_response_is_the_same_alone_and_in_company(
    prompts: list[list[int]], sampler: VLLMSampler
) -> None:
    sampler.sync()
    together = sampler.generate(prompts, 8, 1.0, SEEDS)
    alone = [sampler.generate([p], 8, 1.0, [s])[0] for p, s in zip(prompts, SEEDS, strict=True)]
    assert [g.ids for g in alone] == [g.ids for g in together]
    assert together[0].ids != together[1].ids  # one prompt, two seeds


def test_a_response_ends_with_its_end_token_or_at_the_bound(
    backbone: Backbone, prompts: list[list[int]], sampler: VLLMSampler
) -> None:
    sampler.sync()
    greeting = backbone.tokenizer.encode("Hello! How can I help you today?")
    drawn = sampler.generate([[*prompts[0], *greeting]] * 8 + [prompts[0]], 4, 1.0, range(9))
    assert any(g.complete for g in drawn[:8])
    assert not drawn[8].complete
    for g in drawn:
        assert g.complete == (g.ids[-1] in backbone.eos_ids)
        assert not backbone.eos_ids & set(g.ids[:-1])
        assert len(g.ids) == len(g.logprobs)
        assert g.complete or len(g.ids) == 4


def test_a_second_engine_starts_where_the_first_was_closed(
    backbone: Backbone, prompts: list[list[int]], sampler: VLLMSampler
) -> None:
    sampler.sync()
    expected = sampler.generate(prompts, 8, 1.0, SEEDS)
    sampler.close()
    other = open_sampler("vllm", backbone, 512, 0.25)
    other.sync()
    assert [g.ids for g in other.generate(prompts, 8, 1.0, SEEDS)] == [g.ids for g in expected]
    other.close()
    with pytest.raises(SamplingError, match=r"vLLM could not start with .*kv_cache_gib"):
        open_sampler("vllm", backbone, 8192, 0.01)
