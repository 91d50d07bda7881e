"""A model without attention is refused by PPO and ReST before anything is spent."""

from __future__ import annotations

import json

import pytest
import transformers

from rlaif.algorithms.ppo import train as ppo
from rlaif.algorithms.rest import train as rest
from rlaif.api.rollouts import plan_ppo, plan_rest
from rlaif.generation.base import (
    WITHOUT_ATTENTION,
    SamplingError,
    has_attention,
    require_attention_of,
)
from tests.support.training.architectures import ALONE, save_architecture
from tests.support.training.ppo_runs import count_x, small

REFUSED = r"PPO and ReST cannot sample from a model without attention: .*; train it with dpo"
SETTINGS = {"max_tokens": 60, "max_new_tokens": 4}


@pytest.fixture
def mamba(tiny_model, tmp_path):
    return save_architecture(tmp_path / "mamba", tiny_model, "MambaConfig", ALONE["MambaConfig"])


@pytest.mark.parametrize("model_type", sorted(WITHOUT_ATTENTION))
def test_the_types_that_are_refused_have_no_attention(model_type):
    assert not has_attention(transformers.CONFIG_MAPPING[model_type]())


@pytest.mark.parametrize("model_type", ["llama", "jamba", "falcon_h1", "gpt2", "gemma3"])
def test_others_have_it_also_beside_a_recurrent_state(model_type):
    assert has_attention(transformers.CONFIG_MAPPING[model_type]())


@pytest.mark.parametrize("plan", [plan_ppo, plan_rest])
def test_a_dry_run_refuses_it(plan, mamba):
    problems = plan(["Hello?"], model=mamba, reward=count_x, **SETTINGS).problems
    (problem,) = problems
    with pytest.raises(SamplingError, match=REFUSED):
        raise problem


def test_the_trainers_refuse_it(mamba, questions, tmp_path):
    with pytest.raises(SamplingError, match=REFUSED):
        ppo.train(small(), mamba, questions, count_x, tmp_path / "ppo")
    config = rest.ReSTConfig(dtype="float32", engine="transformers", **SETTINGS)
    with pytest.raises(SamplingError, match=REFUSED):
        rest.train(config, mamba, questions, count_x, tmp_path / "rest")


def test_a_folder_that_does_not_say_is_left_to_the_load(tmp_path):
    require_attention_of("org/hub-id")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "new"}))
    require_attention_of(str(tmp_path))
