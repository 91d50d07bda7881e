"""Recipes: what ships loads, and what does not fit together is refused."""

import pytest

from rlaif.pipeline.recipe import RecipeError, load_recipe


@pytest.mark.parametrize("name", ["quickstart", "cpu_study"])
def test_what_ships_loads_and_names_its_minutes(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert {"models", "sample", "label", "reward", "dpo", "ppo"} <= recipe.minutes.keys()


def test_the_quickstart_has_neither_sft_nor_rest():
    recipe = load_recipe("quickstart")
    assert (recipe.sft, recipe.rest, recipe.start) == (None, None, "policy")
    assert not recipe.ppo.set_for_a_judge()


def test_stages_come_and_go_by_a_setting():
    recipe = load_recipe("cpu_study", ["rest=null", "sft.epochs=1"])
    assert recipe.rest is None
    assert recipe.sft.epochs == 1
    assert load_recipe("quickstart", ["sft={}"]).sft is not None


def test_beginning_from_sft_needs_sft():
    with pytest.raises(RecipeError, match="start: sft needs the sft stage"):
        load_recipe("quickstart", ["start=sft"])
    assert load_recipe("cpu_study", ["start=sft"]).start == "sft"


def test_settings_of_a_nested_stage_are_checked():
    with pytest.raises(RecipeError, match=r"sft\.epoch: unknown setting; did you mean 'epochs'\?"):
        load_recipe("cpu_study", ["sft.epoch=1"])
    with pytest.raises(RecipeError, match="keep"):
        load_recipe("cpu_study", ["dpo.keep=first"])
