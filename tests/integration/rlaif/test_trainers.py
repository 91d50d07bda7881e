"""Reward model, DPO and PPO for a few steps on the real SmolLM2-135M-Instruct, in its own dtype."""

from __future__ import annotations

import json
import math

import pytest

from constitution.schema import Message
from rlaif.algorithms.dpo import train as dpo
from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.reward import train as reward_model
from rlaif.data.records import Preference, Prompt, Sample
from rlaif.models.backbone import Backbone
from rlaif.models.merge import merge_adapter
from rlaif.models.sample_logprobs import response_logprobs

pytestmark = [
    pytest.mark.integration,
    # vLLM's own, as it is imported and shut down
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ASKED = ("Name a color.", "How are you?", "What is 2 + 2?", "Where is Paris?")


@pytest.fixture
def pairs():
    return [
        Preference(
            id=f"pair-{i}",
            prompt=(Message(role="user", content=text),),
            chosen=(Message(role="assistant", content="Thank you for asking! Gladly."),),
            rejected=(Message(role="assistant", content="Find out yourself."),),
            prob_chosen=0.95,
            traits={"kind": 0.95},
        )
        for i, text in enumerate(ASKED)
    ]


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_three_trainers_learn_on_a_real_model_whose_pad_is_its_eos(smollm2, pairs, tmp_path):
    model = str(smollm2)
    common = {"max_tokens": 128, "batch_size": 4, "epochs": 4, "warmup": 0.0}
    rewards = reward_model.train(
        reward_model.RewardConfig(**common), model, pairs, tmp_path / "reward", {"kind": 1.0}
    )
    assert metrics(rewards)[-1]["loss"] < metrics(rewards)[0]["loss"]

    # float32: in bfloat16 the margin of four steps depends on how a processor rounds.
    config = dpo.DPOConfig(**common, dtype="float32", text_eval=None)
    policy = dpo.train(config, model, pairs, tmp_path / "dpo")
    first, last = metrics(policy)[0], metrics(policy)[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)  # in other batches
    assert last["loss"] < first["loss"]
    assert last["margin"] > 0.05

    prompts = [Prompt(id=p.id, messages=p.prompt) for p in pairs]
    config = ppo.PPOConfig(
        max_tokens=128,
        max_new_tokens=8,
        iterations=2,
        prompts_per_iteration=4,
        checkpoint_every=1,
        text_eval=None,
    )
    lines = metrics(ppo.train(config, model, prompts, rewards, tmp_path / "ppo"))
    assert lines[0]["kl_k1"] == pytest.approx(0, abs=0.02)
    assert lines[1]["kl_k3"] > 0
    assert all(math.isfinite(value) for line in lines for value in line.values())

    merged = merge_adapter(model, policy, tmp_path / "merged")
    assert Backbone.load(str(merged), "float32").eos_ids == {2}
    sample = Sample(
        prompt=prompts[0], index=0, response="Thank you for asking! Gladly.", tokens=8,
        complete=True, seed=0,
    )  # fmt: skip
    reference, trained = response_logprobs(model, policy)
    assert sum(trained([sample])[0]) > sum(reference([sample])[0])
