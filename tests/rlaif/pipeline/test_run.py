"""A whole run, and what one would do: refused early, selected, and reported in words."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from constitution.errors import UserError
from rlaif.models.catalog import ModelError
from rlaif.pipeline import run as running
from rlaif.pipeline.recipe import RecipeError
from rlaif.pipeline.run import dry_run
from rlaif.pipeline.runner import RunError, locked
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


@pytest.mark.parametrize(
    ("chosen", "fetched", "judges"),
    [
        ({"only": ["samples"]}, ["smollm2-135m"], 0),
        ({"only": ["labels"]}, ["qwen2.5-coder-1.5b"], 1),
        ({"only": ["dpo", "reward"]}, ["smollm2-135m"], 0),
        ({"only": ["responses"]}, ["smollm2-135m"], 0),  # also the base of adapters
        ({"start": "evaluation"}, ["qwen2.5-coder-1.5b", "smollm2-135m"], 1),
        ({}, ["qwen2.5-coder-1.5b", "smollm2-135m"], 1),
    ],
)
def test_run_fetches_and_measures_only_the_models_of_the_chosen_stages(
    chosen, fetched, judges, tmp_path, console, monkeypatch
):
    got, measured = [], []
    monkeypatch.setattr(running.catalog, "fetch", got.append)
    monkeypatch.setattr(
        running, "fit_to_machine", lambda recipe, *_: measured.extend(_[2]) or recipe
    )
    monkeypatch.setattr(running, "_require_settings", lambda stage: None)
    models = {"policy": "smollm2-135m", "judge": "qwen2.5-coder-1.5b"}

    def stop(*given):
        raise RunError("before the first stage")

    monkeypatch.setattr(running, "run_stages", stop)
    with pytest.raises(RunError, match="before the first stage"):
        running.run(a_recipe(models=models), tmp_path / "run", console, **chosen)
    assert sorted(got) == fetched
    assert len(measured) == judges


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


def old_form(folder):
    mark = folder / ".stages" / "sample.json"
    mark.parent.mkdir(parents=True)
    mark.write_text('{"inputs": "0", "state": "finished", "files": {}}')


def test_run_in_a_folder_of_an_earlier_version_changes_nothing_in_it(tmp_path, console):
    old_form(tmp_path / "run")
    for act in (running.run, dry_run):
        with pytest.raises(RunError, match="made by an earlier version"):
            act(a_recipe(), tmp_path / "run", console)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".stages"]


def test_run_in_a_folder_that_another_run_uses_changes_nothing_in_it(tmp_path, console):
    with locked(tmp_path / "run"), pytest.raises(RunError, match="another run is using this"):
        running.run(a_recipe(), tmp_path / "run", console)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_run_in_a_folder_with_results_of_ones_own_is_refused_before_the_machine_is_measured(
    tmp_path, console
):
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "adapter_model.safetensors").write_text("mine")
    for act in (running.run, dry_run):
        with pytest.raises(RunError, match=r"not made by a run of this recipe.*/dpo; move them"):
            act(a_recipe(), tmp_path, console)
    assert said(console) == ""


def test_run_prompts_that_no_line_has_are_refused_at_once_with_their_stages(tmp_path, console):
    recipe = a_recipe(
        {
            "samples": {"prompts": {"kind": ["no-such"]}},
            "rest": {"prompts": {"kind": ["no-such"]}},
            "responses": {"prompts": {"split": "heldout", "topic": ["nothing"]}},
        }
    )
    for act in (running.run, dry_run):
        with pytest.raises(RecipeError) as error:
            act(recipe, tmp_path / "run", console)
        first, second = str(error.value).splitlines()
        assert first.startswith("stages.samples, rest: quickstart: no prompt of split 'train' has")
        assert second.startswith("stages.responses: quickstart: no prompt of split 'heldout' has")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quickstart", "run"), "expected a Recipe (found 'quickstart'); give Recipe.load("),
        ((a_recipe(), 3), "invalid folder: 3; give a path"),
        ((a_recipe(), "run", print), "invalid console: <built-in function print>; give a rich"),
    ],
)
def test_run_arguments_of_a_wrong_type_are_refused_in_words(arguments, message):
    with pytest.raises(UserError) as error:
        running.run(*arguments)
    assert message in str(error.value)


def test_run_only_takes_one_name_as_it_takes_a_list(tmp_path, console):
    dry_run(a_recipe(), tmp_path / "run", console, only="dpo")
    assert "1/1 dpo" in said(console)


def test_run_settings_that_a_model_refuses_are_found_before_the_first_stage(tmp_path, console):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 256}')
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).touch()
    stages = {"dpo": {"model": "sft", "max_tokens": 512}, "reward": {"max_tokens": 256}}
    stages |= {name: {"max_tokens": 256} for name in ("sft", "ppo", "rest")}
    recipe = a_recipe(stages, models={"policy": str(model), "judge": "org/judge"})
    for act in (running.run, dry_run):
        with pytest.raises(RecipeError) as error:
            act(recipe, tmp_path / "run", console)
        assert str(error.value).startswith(f"stages.dpo: max_tokens=512 is more than {model} can")


def test_a_policy_that_cannot_be_sampled_is_found_before_the_first_stage(tmp_path, console):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "mamba"}')
    for name in ("tokenizer.json", "model.safetensors"):
        (model / name).touch()
    recipe = a_recipe(models={"policy": str(model), "judge": "org/judge"})
    for act in (running.run, dry_run):
        with pytest.raises(RecipeError) as error:
            act(recipe, tmp_path / "run", console)
        (line,) = str(error.value).splitlines()
        assert line.startswith("stages.ppo, rest: PPO and ReST cannot sample from a model without")


def test_dry_run_refuses_a_file_as_the_runs_folder(tmp_path, console):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        dry_run(a_recipe(), tmp_path / "file", console)
