"""A whole run, and what one would do: refused early, selected, told in words."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.models.catalog import ModelError
from rlaif.pipeline import run as running
from rlaif.pipeline.recipe import RecipeError
from rlaif.pipeline.run import dry_run
from tests.support.training.recipes import a_recipe


@pytest.fixture
def console():
    return Console(file=StringIO(), width=200)


def said(console):
    return console.file.getvalue()


def test_run_a_mistyped_model_is_refused_before_anything_is_written(tmp_path, console):
    recipe = a_recipe(models={"policy": "smollm2-135", "judge": "org/judge"})
    with pytest.raises(ModelError, match="unknown model 'smollm2-135'; did you mean"):
        running.run(recipe, tmp_path / "run", console)
    assert list(tmp_path.iterdir()) == []


def test_run_an_unknown_stage_is_refused_before_anything_is_written(tmp_path, console):
    for chosen in ({"only": ["dop"]}, {"start": "dop"}):
        with pytest.raises(RecipeError, match="unknown stage 'dop'; did you mean 'dpo'"):
            running.run(a_recipe(), tmp_path / "run", console, **chosen)
        with pytest.raises(RecipeError, match="unknown stage 'dop'"):
            dry_run(a_recipe(), tmp_path / "run", console, **chosen)
    assert list(tmp_path.iterdir()) == []


def test_dry_run_lists_every_stage_and_writes_nothing(tmp_path, console):
    dry_run(a_recipe(minutes={"labels": 8}), tmp_path / "run", console)
    lines = said(console).splitlines()
    assert lines[0].startswith("quickstart: 203 prompts to train on, 76 held out")
    assert lines[1] == "1/10 samples  org/policy answers 30 prompts, 2 times each  would run"
    assert lines[2].startswith("2/10 labels  org/judge compares the responses by constitution hhh")
    assert lines[2].endswith("about 8 min")
    assert len(lines) == 11
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_selection_lists_that(tmp_path, console):
    dry_run(a_recipe(), tmp_path, console, start="ppo")
    assert [line.split()[1] for line in said(console).splitlines()[1:]] == [
        "ppo", "responses", "evaluation", "report",
    ]  # fmt: skip
    other = Console(file=StringIO(), width=200)
    dry_run(a_recipe(), tmp_path, other, only=["dpo", "labels"])
    assert [line.split()[1] for line in said(other).splitlines()[1:]] == ["labels", "dpo"]


def test_a_file_with_fewer_prompts_than_the_recipe_takes_counts_as_what_it_holds(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text("".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(10)))
    counted = running._counted(a_recipe(prompts=str(own)), tmp_path)
    assert counted.train_prompts + counted.heldout_prompts == 10
    assert counted.heldout_prompts <= 3


def test_a_file_of_training_prompts_alone_is_enough_to_label(tmp_path, console):
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "Question?", "split": "train"}\n')
    stages = {name: None for name in ("sft", "reward", "dpo", "ppo", "rest")}
    stages |= {name: None for name in ("responses", "evaluation", "report")}
    dry_run(a_recipe(stages, prompts=str(own)), tmp_path / "run", console)
    assert "1/2 samples  org/policy answers 1 prompts" in said(console)


def test_run_missing_packages_are_reported_before_hours_are_spent(monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda name: None if name == "vllm" else object())
    served = a_recipe().models["judge"].model_copy(update={"flags": ("--engine", "openai")})
    running._check_packages([served])
    with pytest.raises(ModuleNotFoundError, match="vllm"):
        running._check_packages([a_recipe().models["judge"]])


def test_run_folder_of_a_path_is_where_stages_write(graph_of, tmp_path):
    assert {stage.folder for stage in graph_of().stages} == {
        Path(tmp_path / "run" / stage.name) for stage in graph_of().stages
    }
