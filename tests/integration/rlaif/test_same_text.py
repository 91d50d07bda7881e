"""`rlaif sample` and PPO's sampler give the same text for the same model, prompt and seed.

vLLM, which takes a minute to start twice, has one of the two settings, with RLAIF_FULL=1 both.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from rlaif.batching.encode import encode_conversation
from rlaif.data.prompts import load_prompts
from rlaif.generation import offline
from rlaif.generation.config import SamplingConfig
from rlaif.generation.engines import SAMPLERS, open_sampler
from rlaif.models.backbone import Backbone, LoraConfig

pytestmark = [
    pytest.mark.integration,
    # vLLM's own, as it is imported and shut down
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


FULL = os.environ.get("RLAIF_FULL") == "1"
DRAWN = [(1.0, 1.0), (0.7, 0.8)]


@pytest.mark.parametrize(
    ("engine", "temperature", "top_p"),
    [
        (engine, *how)
        for engine, sampler in SAMPLERS.items()
        for how in (DRAWN if FULL or not sampler.package else DRAWN[1:])
    ],
)
def test_sample_and_ppo_draw_the_same_text(
    smollm2: Path, tmp_path: Path, engine: str, temperature: float, top_p: float
) -> None:
    package = SAMPLERS[engine].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    config = SamplingConfig(
        n=2, max_new_tokens=16, temperature=temperature, top_p=top_p, engine=engine,
        dtype="float32", kv_cache_gib=0.25,
    )  # fmt: skip
    prompts = load_prompts("quickstart")[:3]
    samples = offline.sample(str(smollm2), prompts, tmp_path / "samples.jsonl", config)

    backbone = Backbone.load(str(smollm2), "float32")
    backbone.add_role("policy", LoraConfig(), 0)  # its B is zero: the policy is the model
    ids = [encode_conversation(backbone.tokenizer, s.prompt.messages) for s in samples]
    sampler = open_sampler(engine, backbone, 512, 0.25)
    sampler.sync()
    drawn = sampler.generate(ids, 16, temperature, [s.seed for s in samples], top_p)
    sampler.close()

    assert [(s.tokens, s.complete) for s in samples] == [(len(g.ids), g.complete) for g in drawn]
    assert [s.response for s in samples] == [
        backbone.tokenizer.decode(g.ids, skip_special_tokens=True) for g in drawn
    ]
