"""The recipe of a comparison, what it refuses, and what it says before anything runs."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from constitution.errors import UserError
from rlaif.pipeline import run as pipeline
from rlaif.pipeline.comparing import run as comparing
from rlaif.pipeline.comparing.arms import ARMS, arms_of, settings_of
from rlaif.pipeline.comparing.budget import Budget
from rlaif.pipeline.comparing.plan import ComparisonRequest, comparison_plan
from rlaif.pipeline.comparing.run import ComparisonError, require_budget
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.runner import RunError
from tests.support.training.recipes import a_recipe

ALL = tuple(ARMS)


def stages_of(recipe, *arms, seeds=2, **request):
    plan = comparison_plan(recipe, ComparisonRequest(arms or ALL, seeds, **request))
    build_graph(plan.recipe, Path("unused"))  # every problem would be an error
    return plan.recipe.stages


def test_arms_share_labels_prompts_and_start_and_only_seeds_differ():
    stages = stages_of(a_recipe({"dpo": {"beta": 0.3}}), "dpo", "ppo", "sft", seeds=3)
    assert list(stages)[:3] == ["samples", "labels", "reward"]
    dpo = [stages[f"dpo-{seed}"] for seed in range(3)]
    assert [stage.pop("seed") for stage in dpo] == [0, 1, 2]
    assert dpo[0] == dpo[1] == dpo[2]
    assert dpo[0] == {"kind": "dpo", "model": "policy", "labels": "labels", "beta": 0.3}
    assert stages["sft-1"] == {"kind": "sft", "model": "policy", "data": "labels", "seed": 1}
    assert stages["ppo-0"]["reward"] == "reward"
    assert stages["responses"]["policies"][0] == "policy"
    assert len(stages["responses"]["policies"]) == 10
    assert stages["comparison"]["arms"]["ppo"] == ["ppo-0", "ppo-1", "ppo-2"]


def test_every_shipped_recipe_can_be_compared():
    for name in ("quickstart", "cpu_study"):
        stages = stages_of(Recipe.load(name))
        assert {"samples", "labels", "reward", "rest-1", "best_of_n-0"} <= stages.keys()
        assert "report" not in stages


def test_what_no_arm_needs_is_left_out():
    recipe = a_recipe(models={"policy": "org/p", "judge": "org/j", "second": "org/s"})
    stages = stages_of(recipe, "sft", "dpo")
    assert "reward" not in stages
    plan = comparison_plan(recipe, ComparisonRequest(("dpo",), 1))
    assert plan.recipe.models.keys() == {"policy", "judge", "second"}
    assert "judges" not in stages["evaluation"]  # the second judge, as the kind chooses


def test_estimators_take_the_recipes_settings_but_those_of_another_estimator():
    written = {
        "ppo": {"kind": "ppo", "model": "policy", "advantages": "rloo", "group_size": 4,
                "truncated": "mask", "seed": 9, "eval_every": 3, "judge": "second"},
    }  # fmt: skip
    name, rloo = settings_of(ARMS["rloo"], written)
    assert (name, rloo) == ("ppo", {"advantages": "rloo", "group_size": 4, "truncated": "mask"})
    assert settings_of(ARMS["ppo"], written)[1] == {"advantages": "gae", "group_size": 4}
    single = {"ppo": {"kind": "ppo", "prompts_per_iteration": 20, "gae_lambda": 0.9}}
    grouped = {"group_size": 4, "prompts_per_iteration": 5, "advantages": "rloo"}
    assert settings_of(ARMS["rloo"], single)[1] == grouped  # as many responses
    assert settings_of(ARMS["rest"], written) == ("", {})
    both = {**written, "plain": {"kind": "ppo", "vf_coef": 0.2}}
    assert settings_of(ARMS["ppo"], both) == ("plain", {"vf_coef": 0.2, "advantages": "gae"})


def test_budgets_become_settings_of_labels_and_trainings():
    budget = Budget.parse(["reads=4000", "tokens=100000", "seconds=60"])
    stages = stages_of(a_recipe(), "dpo", "best_of_n", budget=budget)
    assert stages["labels"]["budget_reads"] == 4000
    assert stages["dpo-0"]["budget_tokens"] == 100000
    assert stages["dpo-0"]["budget_seconds"] == 60
    assert "budget_seconds" not in stages["reward"]
    assert "budget_seconds" not in stages["best_of_n-0"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["read=5"],
            r"--budget read=5: unknown budget 'read' .*seconds=60\); .*did you mean 'reads'",
        ),
        (["seconds=0"], "expected a number over 0"),
        (["tokens=1.5"], "expected a whole number over 0"),
        (["seconds=nan"], "expected a number over 0"),
        (["reads=5", "reads=6"], "given twice"),
        (["60"], "unknown budget"),
    ],
)
def test_invalid_budgets_are_refused_with_what_to_give(texts, message):
    with pytest.raises(UserError, match=message):
        Budget.parse(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dpo,pp", r"unknown arm 'pp'; expected one of: sft, .*; did you mean 'ppo'"),
        ("dpo,dpo", "dpo is named twice"),
        (" , ", "no arm is named"),
    ],
)
def test_arms_that_do_not_exist_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        arms_of(text)


def test_a_recipe_that_does_not_say_which_labels_or_start_is_asked():
    two = a_recipe({"more": {"kind": "label", "samples": "samples"}, "dpo": {"labels": "more"}})
    with pytest.raises(RecipeError, match=r"same labels for all arms.*differ \(.*more.*--labels"):
        comparison_plan(two, ComparisonRequest(("dpo",), 1))
    stages = stages_of(two, "dpo", labels="more")
    assert stages["dpo-0"]["labels"] == "more"
    assert "labels" not in stages
    other = a_recipe({"dpo": {"model": "sft"}})
    with pytest.raises(RecipeError, match=r"same start for all arms.*--start"):
        comparison_plan(other, ComparisonRequest(("dpo",), 1))
    assert stages_of(other, "dpo", start="sft")["responses"]["policies"][0] == "sft"
    with pytest.raises(RecipeError, match="--start stf: unknown name; did you mean 'sft'"):
        comparison_plan(other, ComparisonRequest(("dpo",), 1, start="stf"))


def test_a_name_that_the_comparison_needs_is_refused_where_the_recipe_has_it():
    drawn = {"dpo-0": {"kind": "sample", "model": "policy"}, "labels": {"samples": "dpo-0"}}
    recipe = a_recipe({"samples": None, **drawn})
    with pytest.raises(RecipeError, match="dpo-0: a comparison needs this name"):
        comparison_plan(recipe, ComparisonRequest(("dpo",), 1))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("reads=2", "a pair takes .* reads, and training needs two pairs; give at least"),
        ("tokens=20", "the first step of dpo takes at least"),
    ],
)
def test_a_budget_that_is_surely_too_small_is_refused_before_anything_runs(
    budget, message, tmp_path
):
    request = ComparisonRequest(("dpo", "ppo", "rest"), 1, Budget.parse([budget]))
    plan = comparison_plan(a_recipe(), request)
    with pytest.raises(ComparisonError, match=message):
        require_budget(plan, request, tmp_path)


def test_a_dry_run_names_reads_trainings_and_minutes(tmp_path):
    console = Console(file=StringIO(), width=300)
    recipe = Recipe.load("quickstart")
    comparing.dry_run(recipe, ComparisonRequest(("sft", "dpo", "best_of_n"), 2), tmp_path, console)
    said = console.file.getvalue()
    assert "3 arms (sft, dpo, best_of_n), 4 trainings, from policy, seeds 0 to 1" in said
    assert "dpo: settings of the recipe's dpo" in said
    assert "sft: default settings" in said
    assert "labels: at most 160 reads" in said  # 80 prompts, a pair each, one principle, two orders
    assert "evaluation: at most 384 reads against the start, and 384 head to head" in said
    # 2 + 14 + 3.5, two of DPO at 3.2, three times as many answers and comparisons: 2·3 + 10.5·3
    assert "about 63 min in all as measured for the recipe, without sft-0" in said
    assert not list(tmp_path.iterdir())


class FailingRun:
    """Stands for the pipeline: stages fail as told, the first time."""

    def __init__(self, **failed):
        self.failed, self.recipes = failed, []

    def __call__(self, recipe, folder, console):
        self.recipes.append(recipe)
        if len(self.recipes) == 1 and self.failed:
            raise RunError("failed", self.failed)


def compare_with(monkeypatch, run, tmp_path, *arms):
    monkeypatch.setattr(pipeline, "run", run)
    console = Console(file=StringIO(), width=300)
    comparing.compare(a_recipe(), ComparisonRequest(arms, 2), tmp_path, console)
    return console.file.getvalue()


def test_a_training_that_fails_is_left_out_with_its_reason(monkeypatch, tmp_path):
    run = FailingRun(**{"ppo-1": "diverged", "dpo-0": "spent", "dpo-1": "spent"})
    said = compare_with(monkeypatch, run, tmp_path, "sft", "dpo", "ppo")
    assert "going on without ppo-1, dpo-0, dpo-1" in said
    comparison = run.recipes[1].stages["comparison"]
    assert comparison["arms"] == {"sft": ["sft-0", "sft-1"], "ppo": ["ppo-0"]}
    assert comparison["left_out"]["ppo-1"] == "diverged"
    assert "dpo-0" not in run.recipes[1].stages


@pytest.mark.parametrize(
    "failed", [{"labels": "no judge"}, {"sft-0": "spent", "sft-1": "spent"}, {"evaluation": "x"}]
)
def test_what_all_arms_share_and_all_trainings_failing_end_the_comparison(
    failed, monkeypatch, tmp_path
):
    with pytest.raises(RunError):
        compare_with(monkeypatch, FailingRun(**failed), tmp_path, "sft")
