"""`rlaif sample` and PPO's sampler give the same text for the same model, prompt and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.batching.encode import encode_conversation
from rlaif.data.prompts import load_prompts
from rlaif.generation import offline
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import ENGINES, open_sampler
from rlaif.models.backbone import Backbone, LoraConfig

pytestmark = [
    pytest.mark.integration,
    # vLLM's own, as it is imported and shut down
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_sample_and_ppo_draw_the_same_text(smollm2: Path, tmp_path: Path, engine: str) -> None:
    config = SamplingConfig(
        n=2, max_new_tokens=16, engine=engine, dtype="float32", kv_cache_gib=0.25
    )
    prompts = load_prompts("quickstart")[:3]
    samples = offline.sample(str(smollm2), prompts, tmp_path / "samples.jsonl", config)

    backbone = Backbone.load(str(smollm2), "float32")
    backbone.add_role("policy", LoraConfig(), 0)  # its B is zero: the policy is the model
    ids = [encode_conversation(backbone.tokenizer, s.prompt.messages) for s in samples]
    sampler = open_sampler(engine, backbone, 512, 0.25)
    sampler.sync()
    drawn = sampler.generate(ids, 16, 1.0, [s.seed for s in samples])
    sampler.close()

    assert len({s.response for s in samples}) == len(samples)
    assert [(s.tokens, s.complete) for s in samples] == [(len(g.ids), g.complete) for g in drawn]
    assert [s.response for s in samples] == [
        backbone.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn
    ]
