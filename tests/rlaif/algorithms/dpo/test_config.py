"""Which settings DPO takes: the loss chooses them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError

from constitution.errors import UserError
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.losses.robust import RobustConfig
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.settings import configured


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(ValidationError, match="label_noise belongs to loss=robust"):
        DPOConfig(label_noise=0.1)
    with pytest.raises(ValidationError, match="label_noise belongs to loss=robust"):
        DPOConfig(loss="robust")
    with pytest.raises(
        ValidationError, match="unknown loss 'sigmod'; expected one of: soft_sigmoid, sigmoid"
    ):
        DPOConfig(loss="sigmod")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DPOConfig(bta=0.1)


def test_the_loss_chooses_the_class_of_the_settings_however_they_are_made():
    robust = {"loss": "robust", "label_noise": 0.1}
    made = DPOConfig(**robust)
    for config in (
        made,
        DPOConfig.model_validate(robust),
        RobustConfig(**robust),
        copy.deepcopy(made),
        made.model_copy(update={"seed": 3}),
        configured(DPOConfig, ["loss=robust", "label_noise=0.1"], {}),
    ):
        assert type(config) is RobustConfig
        assert config.label_noise == 0.1
    assert type(DPOConfig()) is DPOConfig
    with pytest.raises(ValidationError, match="RobustConfig is of another loss"):
        RobustConfig(label_noise=0.1)


def test_a_recipe_chooses_it_too_and_keeps_its_settings():
    settings = quickstart("dpo.loss=robust", "dpo.label_noise=0.2")["dpo"].settings
    assert type(settings) is RobustConfig
    assert settings.label_noise == 0.2
    with pytest.raises(RecipeError, match="label_noise belongs to loss=robust"):
        quickstart("dpo.label_noise=0.2")


def quickstart(*settings):
    return build_graph(Recipe.load("quickstart", settings), Path("run"))


@pytest.mark.parametrize("at", ["", "dpo."])
def test_a_misspelled_setting_of_a_loss_names_the_nearest_of_that_loss(at):
    robust = [f"{at}loss=robust", f"{at}label_noise=0.2", f"{at}label_noize=0.1"]
    with pytest.raises(
        UserError, match=r"label_noize: unknown setting; did you mean 'label_noise'\?"
    ):
        quickstart(*robust) if at else configured(DPOConfig, robust, {})
