"""How long a run takes on this machine, and how many prompts that leaves time for."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from constitution.errors import UserError
from hardware import vllm_cpu
from hardware.memory import GIB, ModelSize
from rlaif.pipeline import machine_fit
from rlaif.pipeline import run as running
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.machine_fit import Machine, fit_to_machine, kept_size
from rlaif.pipeline.recipe import ModelSpec, Recipe
from tests.support.training.recipes import a_recipe

RECIPE = a_recipe(
    models={"policy": "p", "judge": "j"},
    train_prompts=80,
    heldout_prompts=40,
    fit={"minutes": 38, "train_prompts": 20, "heldout_prompts": 10},
    minutes={"labels": 8, "ppo": 5, "evaluation": 4},
    gflops=100,
)


def predicted(recipe, slower, train, heldout):
    graph = build_graph(recipe, Path("run"))
    return machine_fit.predicted(recipe, graph, slower, train, heldout)


def fitted(recipe, slower):
    return machine_fit.fitted(recipe, build_graph(recipe, Path("run")), slower)


@pytest.fixture
def say():
    return Console(file=StringIO(), width=200)


def machine(monkeypatch, gflops, gpu=None):
    monkeypatch.setattr(machine_fit, "look_at_machine", lambda: Machine(2, "float32", gflops, gpu))


def test_minutes_grow_with_prompts_and_slowness_but_for_what_does_neither():
    assert predicted(RECIPE, 3.0, 40, 10) == {
        "labels": 8 * 3 / 2,
        "ppo": 5 * 3,  # its iterations are the recipe's
        "evaluation": 4 * 3 / 4,
    }


def test_other_numbers_of_prompts_take_other_minutes_than_were_measured():
    """Whoever runs a recipe with eight prompts is not promised the minutes of eighty."""
    demo = Recipe.load("quickstart")
    few = Recipe.load("quickstart", ["train_prompts=8", "heldout_prompts=4"])
    found = predicted(few, 1.0, 8, 4)
    assert found["labels"] == pytest.approx(demo.minutes["labels"] / 10)
    assert found["evaluation"] == pytest.approx(demo.minutes["evaluation"] / 8)
    assert found["ppo"] == demo.minutes["ppo"]
    many = Recipe.load("quickstart", ["train_prompts=200"])
    assert fitted(many, 1.0)[0] < 200, "it would take longer than fit.minutes"


@pytest.mark.parametrize(
    ("slower", "size"),
    [
        (1.0, (80, 40)),  # 17 min
        (2.0, (80, 40)),  # 34 min
        (3.0, (51, 26)),  # 15 + 36 · 0.64 = 38.04
        (100.0, (20, 10)),  # never under the least
    ],
)
def test_a_slow_machine_takes_the_largest_share_of_the_prompts_that_fits(slower, size):
    train, heldout = fitted(RECIPE, slower)
    assert (train, heldout) == pytest.approx(size, abs=1)
    if slower < 100:
        assert sum(predicted(RECIPE, slower, train, heldout).values()) <= 38


def test_fewer_prompts_than_the_least_are_taken_where_the_recipe_names_fewer():
    small = RECIPE.model_copy(update={"train_prompts": 8, "heldout_prompts": 4})
    assert fitted(small, 100.0) == (8, 4)


def test_without_fit_the_recipe_is_taken_as_it_is():
    assert fitted(RECIPE.model_copy(update={"fit": None}), 100.0) == (80, 40)


def test_a_run_that_was_killed_goes_on_with_the_prompts_it_began_with(tmp_path, say, monkeypatch):
    machine(monkeypatch, 10)
    first = fit_to_machine(RECIPE, tmp_path, say)
    machine(monkeypatch, 400)
    again = fit_to_machine(RECIPE, tmp_path, say)
    assert (again.train_prompts, again.heldout_prompts) == (20, 10)
    assert (first.minutes["ppo"], again.minutes["ppo"]) == (50, 1.25)
    assert kept_size(RECIPE, tmp_path).train_prompts == 20
    said = say.file.getvalue()
    assert "20 training prompts, 10 held-out prompts (instead of 80" in said
    assert "fit=null takes all" in said
    assert Recipe.load("quickstart", ["fit=null"]).fit is None


def test_other_limits_are_another_size(tmp_path, say, monkeypatch):
    machine(monkeypatch, 25)
    fit_to_machine(RECIPE, tmp_path, say)
    more = RECIPE.model_copy(update={"train_prompts": 60})
    assert kept_size(more, tmp_path) is more
    for damaged in (b"{", b"\xff", b"[]", b""):
        (tmp_path / "size.json").write_bytes(damaged)
        assert kept_size(RECIPE, tmp_path) is RECIPE


def test_on_a_gpu_nothing_is_predicted_from_the_processor(tmp_path, say, monkeypatch):
    machine(monkeypatch, 0.0, gpu="NVIDIA H100")
    assert fit_to_machine(RECIPE, tmp_path, say) is RECIPE
    assert "NVIDIA H100" in say.file.getvalue()


def test_a_run_that_began_on_a_processor_goes_on_with_its_prompts_on_a_gpu(
    tmp_path, say, monkeypatch
):
    machine(monkeypatch, 10)
    fit_to_machine(RECIPE, tmp_path, say)
    machine(monkeypatch, 0.0, gpu="NVIDIA H100")
    assert fit_to_machine(RECIPE, tmp_path, say).train_prompts == 20


def test_a_judge_behind_a_model_server_takes_no_memory_here(tmp_path, say, monkeypatch):
    machine(monkeypatch, 100)
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: 1)
    monkeypatch.setattr(machine_fit, "judge_size", lambda judge: ModelSize(4 * GIB, 0))
    flags = ("--engine", "openai", "--openai-url", "http://127.0.0.1:8000/v1")
    fit_to_machine(
        RECIPE.model_copy(
            update={"models": RECIPE.models | {"judge": ModelSpec(model="j", flags=flags)}}
        ),
        tmp_path,
        say,
    )
    assert "the judge j runs behind a model server" in say.file.getvalue()


def test_a_judge_that_does_not_fit_is_refused_before_anything_is_run(tmp_path, say, monkeypatch):
    machine(monkeypatch, 100)
    monkeypatch.setattr(machine_fit, "judge_size", lambda judge: ModelSize(4 * GIB, 0))
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: GIB)
    with pytest.raises(UserError, match="too little memory for j in"):
        fit_to_machine(RECIPE, tmp_path, say)
    assert not list(tmp_path.iterdir())


def test_a_judge_that_no_chosen_stage_uses_takes_no_memory(tmp_path, say, monkeypatch):
    machine(monkeypatch, 100)
    monkeypatch.setattr(machine_fit, "judge_size", lambda judge: ModelSize(4 * GIB, 0))
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: GIB)
    fit_to_machine(RECIPE, tmp_path, say, judges=[])
    assert "the judge j" not in say.file.getvalue()


def test_a_run_that_has_begun_is_not_refused_for_a_judge_that_it_may_not_need(
    tmp_path, say, monkeypatch
):
    """It may be finished, and print its table again."""
    machine(monkeypatch, 100)
    monkeypatch.setattr(machine_fit, "judge_size", lambda judge: ModelSize(4 * GIB, 0))
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: 64 * GIB)
    fit_to_machine(RECIPE, tmp_path, say)
    monkeypatch.setattr(vllm_cpu, "available_bytes", lambda: GIB)
    assert fit_to_machine(RECIPE, tmp_path, say).train_prompts == 80
    assert say.file.getvalue().count("the judge j computes in") == 2


def test_the_cores_that_are_named_are_those_whose_speed_is_counted(monkeypatch):
    monkeypatch.setattr(machine_fit, "cores", lambda: 1.5)
    monkeypatch.setattr(machine_fit, "matmul_gflops", lambda dtype: 90.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = machine_fit.look_at_machine()
    assert (found.cores, found.gflops) == (1.5, 90.0)
    assert machine_fit._describe(found).startswith("this machine: 1.5 cores, 90 GFLOP/s in ")


def test_the_demo_keeps_forty_labels_and_twenty_four_heldout_prompts_on_any_machine():
    demo = Recipe.load("quickstart")
    train, heldout = fitted(demo, 1000.0)
    assert (train >= 40, heldout >= 24) == (True, True)
    assert fitted(demo, 0.1) == (80, 32)


def test_a_run_is_fitted_before_its_stages_are_made(tmp_path, say, monkeypatch):
    machine(monkeypatch, 10)

    class FarEnoughError(Exception):
        pass

    def run_stages(stages, context, console, selection):
        assert (context.recipe.train_prompts, context.recipe.heldout_prompts) == (20, 10)
        raise FarEnoughError

    monkeypatch.setattr(running, "run_stages", run_stages)
    monkeypatch.setattr(running, "_check_models", lambda models: None)  # "p" names no real one
    with pytest.raises(FarEnoughError):
        running.run(RECIPE, tmp_path, say)
    assert say.file.getvalue().startswith("this machine: 2 cores, 10 GFLOP/s in float32")
