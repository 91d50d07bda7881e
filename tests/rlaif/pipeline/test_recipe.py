"""Recipes: what ships loads, settings find their place, and mistakes are refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import ModelSpec, Recipe, RecipeError, shipped_recipes

SHIPPED = tuple(shipped_recipes())


def graph_of(name, *settings):
    return build_graph(Recipe.load(name, settings), Path("run"))


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_that_ships_builds_and_describes_itself_in_a_line(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description
    assert "\n" not in recipe.description
    assert build_graph(recipe, Path("run")).stages[-1].kind == "report"


def test_recipe_quickstart_is_the_chain_of_the_demo():
    stages = [(stage.name, stage.kind) for stage in graph_of("quickstart").stages]
    assert stages == [
        ("samples", "sample"),
        ("labels", "label"),
        ("reward", "reward"),
        ("dpo", "dpo"),
        ("ppo", "ppo"),
        ("responses", "respond"),
        ("evaluation", "evaluate"),
        ("report", "report"),
    ]


def test_recipe_no_shipped_one_sets_the_steps_of_a_judge():  # on a GPU vLLM's are far longer
    for name in SHIPPED:
        for spec in Recipe.load(name).models.values():
            assert "--step-tokens" not in spec.flags


# ── settings ─────────────────────────────────────────────────────────────────────────────────


def test_recipe_settings_reach_stages_models_and_the_recipe():
    recipe = Recipe.load(
        "quickstart",
        ["dpo.beta=0.3", "dpo.lora.rank=4", "policy=org/model", "constitution=hhh", "fit=null"],
    )
    dpo = build_graph(recipe, Path("run"))["dpo"]
    assert (dpo.settings.beta, dpo.settings.lora.rank, dpo.settings.batch_size) == (0.3, 4, 8)
    assert recipe.models["policy"] == ModelSpec(model="org/model")
    assert (recipe.constitution, recipe.fit) == ("hhh", None)


def test_recipe_settings_of_a_model_that_is_given_by_name():
    recipe = Recipe.load("quickstart", ["judge.dtype=float32"])
    assert recipe.models["judge"] == ModelSpec(model="qwen2.5-coder-1.5b", dtype="float32")


def test_recipe_stages_come_and_go_by_a_setting():
    assert "rest" not in [s.name for s in graph_of("cpu_study", "rest=null").stages]
    added = graph_of(
        "quickstart",
        "stages.more={kind: dpo, model: policy, labels: labels, loss: ipo_sum}",
        "responses.policies=[policy, dpo, ppo, more]",
    )
    assert added["more"].settings.loss == "ipo_sum"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dpo.betta=1", "stages.dpo.betta: unknown setting; did you mean 'beta'?"),
        ("dop.beta=1", "dop.beta: unknown setting; did you mean 'dpo'?"),
        ("polcy=x", "polcy: unknown setting; did you mean 'policy'?"),
        ("reward_heldout=0.3", "reward_heldout is now called heldout_pairs"),
        ("train_prompts=1", "train_prompts: Input should be greater than or equal to 2 (found 1)"),
        ("judge=null", "models: judge: expected a short name, a folder or a hub id"),
        ("judge.dtype=int3", "models.judge.dtype: "),
        ("stages.dpo=3", "stages: dpo: expected {kind: …} or null (found 3)"),
        ("dpo", "'dpo' is not a setting; write key=value"),
        ("stages=3", "stages: Input should be a valid dictionary (found 3)"),
        ("models=[a, b]", "models: Input should be a valid dictionary (found ['a', 'b'])"),
        ("stages={yes: {kind: dpo}}", "stages: YAML reads a name as True; write it in quotes"),
        ("stages.dpo={kind: dpo, 1: 2}", "stages: dpo: YAML reads a name as 1; write it in quotes"),
        ("models.start=a/b", "models: start: this name is taken by the first policy in results"),
        ("models.gflops=a/b", "models: gflops: this name is taken by a key of recipes"),
        ("models={../p: a/b}", "models: ../p: invalid name; use at most 100 letters, digits"),
        ("minutes.dpo=-1", "minutes.dpo: Input should be greater than or equal to 0 (found -1)"),
        ("minutes.dpo=.nan", "minutes.dpo: Input should be a finite number (found nan)"),
        ("gflops=.inf", "gflops: Input should be a finite number (found inf)"),
        ("minutes_prompts.train=0", "minutes_prompts.train: Input should be greater than 0"),
    ],
)
def test_recipe_a_wrong_setting_names_its_key_and_the_nearest(setting, message):
    with pytest.raises(RecipeError) as error:
        graph_of("quickstart", setting)
    assert message in str(error.value)


# ── files ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not YAML"),
        ("- a", "expected a mapping of settings (found ['a'])"),
        ("", "expected a mapping of settings (found None)"),
        ("name: x\nname: y", "name is given twice; rename or remove one"),
        ("stages:\n  a: {kind: sample}\n  a: {kind: label}", "a is given twice"),
        ("name: x\n? [a]\n: 3", "found unhashable key"),
        (f"name: x\nsplit_seed: {'9' * 5000}", "is not a value that can be read"),
        ("name: x\ndescription: 2020-13-45", "2020-13-45 is not a value that can be read"),
        ("name: " + "[" * 3000, "not YAML: nested too deeply; check its brackets"),
        ("name: x", "models: missing setting"),
        ("name: x\nprinciples: []", "a constitution, not a recipe; run a recipe with it: "),
        (
            "name: x\npolicy: p\njudge: j\ndpo: {beta: 1}\nppo: {}",
            "recipes of this form are no longer read; write the stages under `stages:`",
        ),
    ],
)
def test_recipe_a_damaged_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        Recipe.load(str(path))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_recipe_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.yaml: cannot be read: No such file"):
        Recipe.load("gone.yaml")
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read: not UTF-8 text"):
        Recipe.load(str(tmp_path / "mine.yaml"))
    with pytest.raises(
        RecipeError, match=r"unknown recipe 'quikstart'; expected.*did you mean 'quickstart'"
    ):
        Recipe.load("quikstart")


def test_recipe_a_setting_of_a_stage_that_is_left_out_says_so(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(shipped_recipes()["quickstart"].replace("  dpo: {", "  dpo: null\n  other: {"))
    with pytest.raises(RecipeError, match=r"dpo\.beta: the recipe leaves the stage dpo out"):
        Recipe.load(str(path), ["dpo.beta=0.2"])


@pytest.mark.parametrize("name", ["~nobody-here/a.yaml", "a\0.yaml"])
def test_recipe_a_path_that_cannot_exist_is_refused(name):
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(name)


def test_recipe_from_python_is_the_same_as_from_yaml():
    loaded = Recipe.load("quickstart")
    made = Recipe(**loaded.model_dump())
    assert made == loaded
