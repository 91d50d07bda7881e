"""Which stages a fleet concerns, and what is refused before anything runs."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlaif.distributed.fleet import FleetError
from rlaif.pipeline.fleet.places import fleet_of, where
from rlaif.pipeline.fleet.work import anywhere, require_fleet
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.run import dry_run
from tests.support.training.recipes import a_recipe

REVISED = {"revisions": {"kind": "revise", "samples": "samples"}, "sft": {"data": "revisions"}}


def on_the_fleet(changed: dict[str, Any] | None = None, **fleet: Any) -> set[str]:
    recipe = a_recipe(changed, fleet={"ray": "auto", **fleet})
    return {s.name for s in build_graph(recipe, Path("run")).stages if fleet_of(s, recipe)}


def test_stages_that_sample_label_and_revise_run_on_it() -> None:
    assert on_the_fleet(REVISED) == {"samples", "labels", "revisions"}
    assert on_the_fleet(REVISED, stages=["labels"]) == {"labels"}


def test_without_a_fleet_no_stage_does() -> None:
    recipe = a_recipe()
    graph = build_graph(recipe, Path("run"))

    assert not any(fleet_of(stage, recipe) for stage in graph.stages)
    assert {where(stage, recipe) for stage in graph.stages} == {""}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pairs": "extremes"}, "pairs=extremes chooses a pair by the answers to others"),
        ({"budget_reads": 40}, "budget_reads counts the pairs of all prompts"),
    ],
)
def test_settings_that_need_all_rows_keep_a_stage_here_and_it_says_so(
    settings: dict[str, Any], reason: str
) -> None:
    assert on_the_fleet({"labels": settings}) == {"samples"}
    recipe = a_recipe({"labels": settings}, fleet={"ray": "auto"})
    graph = build_graph(recipe, Path("run"))
    assert where(graph["labels"], recipe) == f", on this host: {reason}"
    assert where(graph["samples"], recipe) == ", on the Ray cluster auto"
    with pytest.raises(RecipeError, match=f"labels cannot run on a fleet: {reason}; remove it fr"):
        on_the_fleet({"labels": settings}, stages=["samples", "labels"])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("lables", "fleet.stages: unknown stage 'lables'; did you mean 'labels'"),
        ("dpo", "fleet.stages: dpo cannot run on a fleet: only sample, label and revise make"),
    ],
)
def test_a_stage_that_cannot_run_on_it_is_refused_by_name(name: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        on_the_fleet(stages=[name])


@pytest.mark.parametrize(
    ("fleet", "problem"),
    [
        ("worker: 2", r"fleet\.worker: unknown setting; did you mean 'workers'"),
        ("rows: 0", r"fleet\.rows: .*0"),
        ("workers: 0", r"fleet\.workers: .*0"),
        ("gpus: -1", r"fleet\.gpus: .*-1"),
        ("gpus: 1, ray: ''", r"fleet\.ray: "),
    ],
)
def test_an_invalid_setting_is_refused_by_its_name(fleet: str, problem: str) -> None:
    ray = "" if "ray" in fleet else "ray: local, "
    with pytest.raises(RecipeError, match=problem):
        Recipe.load("quickstart", [f"fleet={{{ray}{fleet}}}"])


def test_a_fleet_without_its_address_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"fleet\.ray: "):
        Recipe.load("quickstart", ["fleet={workers: 2}"])


def test_a_fleet_that_no_stage_can_use_is_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.touch()
    nothing = dict.fromkeys(("sft", "reward", "ppo", "rest", "responses", "evaluation", "report"))
    stages = {**nothing, "samples": None, "labels": None, "dpo": {"labels": str(labels)}}
    recipe = a_recipe(
        stages, models={"policy": "org/policy"}, fleet={"ray": "auto"}
    )  # fmt: skip

    with pytest.raises(RecipeError, match="fleet: no stage of this recipe can run on it; remove"):
        build_graph(recipe, tmp_path / "run")


def test_without_ray_a_run_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = a_recipe(fleet={"ray": "local"})
    stages = build_graph(recipe, Path("run")).stages

    with pytest.raises(FleetError, match="a Ray cluster needs Ray, which is not installed; "):
        require_fleet(recipe, stages)
    require_fleet(recipe, [stage for stage in stages if stage.name == "dpo"])


def test_a_dry_run_says_what_runs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    shown = Console(file=StringIO(), width=400)

    dry_run(a_recipe(fleet={"ray": "10.0.0.1:6379"}), tmp_path / "run", shown)

    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert text.count(", on the Ray cluster 10.0.0.1:6379") == 2


def test_paths_are_named_for_workers_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.yaml").touch()

    assert anywhere("rules.yaml") == str(tmp_path / "rules.yaml")
    assert anywhere("planted:judge.yaml") == f"planted:{tmp_path / 'judge.yaml'}"
    assert [anywhere(name) for name in ("hhh", "org/model")] == ["hhh", "org/model"]
