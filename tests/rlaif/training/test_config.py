"""Default learning rates: by algorithm, and by whether an adapter or the whole model trains."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from constitution.errors import UserError
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.cli.training.dry_run import settings_in_force
from rlaif.pipeline.recipe import Recipe
from rlaif.settings import configured
from rlaif.settings_rows import setting_rows

RATES = [
    (SFTConfig, 2e-4, 2e-5),
    (RewardConfig, 1e-4, 1e-5),
    (DPOConfig, 5e-5, 1e-6),
    (PPOConfig, 5e-5, 2e-6),
    (ReSTConfig, 2e-4, 2e-5),
]


@pytest.mark.parametrize(("config", "adapter", "whole"), RATES)
def test_the_rate_is_that_of_the_algorithm_and_of_what_trains(config, adapter, whole):
    assert config().learning_rate == adapter
    assert config(lora={"rank": 4}).learning_rate == adapter
    assert config(lora=None).learning_rate == whole
    assert configured(config, ["lora=null"], {}).learning_rate == whole
    assert configured(config, [], {"lora": None}).learning_rate == whole


@pytest.mark.parametrize(("config", "adapter", "whole"), RATES)
def test_a_given_rate_wins(config, adapter, whole):
    for settings in ({}, {"lora": None}):
        assert config(learning_rate=3e-3, **settings).learning_rate == 3e-3
    with pytest.raises(ValidationError, match="learning_rate"):
        config(learning_rate=None)
    with pytest.raises(ValidationError, match="greater than 0"):
        config(learning_rate=0.0)


@pytest.mark.parametrize("loss", ["sigmoid_norm", "ipo_mean"])
def test_the_rate_is_the_same_for_every_loss(loss):
    assert DPOConfig(loss=loss).learning_rate == 5e-5
    assert DPOConfig(loss=loss, lora=None).learning_rate == 1e-6


@pytest.mark.parametrize(("config", "adapter", "whole"), RATES)
def test_a_run_records_the_rate_itself(config, adapter, whole):
    assert config(lora=None).model_dump(mode="json")["learning_rate"] == whole
    (row,) = [row for row in setting_rows(config) if row.key == "learning_rate"]
    assert row.type == "number > 0"
    assert row.default == f"{adapter:g}; with lora=null {whole:g}"


def test_a_dry_run_shows_the_rate_in_force_and_marks_it_only_if_given():
    assert "  learning_rate=1e-06" in settings_in_force(DPOConfig(lora=None))
    assert "* learning_rate=5e-05" in settings_in_force(DPOConfig(lora=None, learning_rate=5e-5))


def test_a_mistake_in_another_setting_is_not_one_of_the_rate():
    with pytest.raises(UserError) as caught:
        configured(DPOConfig, ["lora.rnk=3"], {})
    assert str(caught.value) == "lora.rnk: unknown setting; did you mean 'rank'?"


def test_recipes_keep_the_rates_that_were_measured():
    quickstart = Recipe.load("quickstart", []).stages
    assert {quickstart[name]["learning_rate"] for name in ("reward", "dpo", "ppo")} == {2e-4}
    study = Recipe.load("cpu_study", []).stages
    assert {name: study[name]["learning_rate"] for name in ("reward", "dpo", "ppo")} == {
        "reward": 2e-4, "dpo": 2e-4, "ppo": 4e-4,
    }  # fmt: skip
