"""A recipe whose judge is planted: what is refused, what depends on its file, and what is said."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from constitution import Constitution
from judge_service.engines.planted import PlantedEngine
from judge_service.planted.file import PlantedError, PlantedJudge
from rlaif.data.records import Sample, read_jsonl, write_jsonl
from rlaif.evaluation.gold import GoldEvaluation, GoldLabels
from rlaif.models import catalog
from rlaif.pipeline import machine_fit, run
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.machine_fit import Machine, fit_to_machine
from rlaif.pipeline.recipe import ModelSpec, RecipeError
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.page import render_page
from tests.rlaif.report.pages import text_of
from tests.support.feedback.local_judge import LocalJudge
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.training.recipes import a_recipe

TEXTS = ("I cannot help with that.", "Wait 5 minutes. Take care!", "Try. Try again. Then stop.")


def planted_recipe(folder, **changes):
    model = f"planted:{judge_file(folder, **changes)}"
    models = {"policy": "org/policy", "judge": model}
    return a_recipe(models=models, constitution=str(CONSTITUTION))


def test_a_planted_judge_is_no_model_to_train_or_to_sample_from(tmp_path):
    recipe = planted_recipe(tmp_path)
    recipe.stages["dpo"]["model"] = "judge"
    with pytest.raises(RecipeError, match=r"dpo\.model: judge is a planted judge.*trained"):
        build_graph(recipe, tmp_path / "run")


def test_an_invalid_file_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(PlantedError, match="flip"):
        run._check_models([ModelSpec(model=f"planted:{judge_file(tmp_path, flip=2)}")])


def test_it_takes_no_memory_needs_no_vllm_and_is_said_to_be_planted(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_fit, "look_at_machine", lambda: Machine(2, "float32", 100, None))
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "vllm" else name)
    recipe, console = planted_recipe(tmp_path), Console(file=StringIO(), width=300)
    fit_to_machine(recipe, tmp_path / "run", console)
    assert "is planted: simulated by rules, not a model" in console.file.getvalue()
    run._check_packages([recipe.models["judge"]])
    with pytest.raises(ModuleNotFoundError, match="vllm"):
        run._check_packages([recipe.models["policy"]])


def test_labels_depend_on_what_the_file_says(tmp_path):
    identities = []
    for flip in (0.1, 0.1, 0.2):
        graph = build_graph(planted_recipe(tmp_path, flip=flip), tmp_path / "run")
        identities.append(graph["labels"].source("judge").identity())
    assert identities[0] == identities[1] != identities[2]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """(context, graph) whose label and evaluate stages ran on a planted judge that flips half."""
    recipe = planted_recipe(tmp_path, flip=0.5)
    graph = build_graph(recipe, tmp_path / "run")
    context = RunContext(recipe, tmp_path / "run")
    engine = PlantedEngine(PlantedJudge.load(recipe.models["judge"].model))
    asyncio.run(engine.start())

    @contextmanager
    def judge_client(self, judge, constitution, log):
        yield LocalJudge(Constitution.load(CONSTITUTION), engine=engine)

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    monkeypatch.setattr(catalog, "resolve", lambda name: name)
    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [float(len(t)) for t in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)
    monkeypatch.setattr(EvaluateStage, "_kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)
    samples = graph["samples"].outputs.paths[0]
    samples.parent.mkdir(parents=True)
    write_jsonl(samples, responses(context.prompts("train"), TEXTS))
    respond = graph["responses"]
    respond.folder.mkdir()
    for place, name in enumerate(respond.policies):
        own = responses(context.prompts("heldout"), (TEXTS[place % 3],))
        write_jsonl(respond.responses(name), own)
    for name in ("labels", "evaluation"):
        graph[name].folder.mkdir()
        graph[name].run(context)
    return context, graph


def responses(prompts, texts):
    return [
        Sample(prompt=p, index=i, response=text, tokens=5, complete=True, seed=0)
        for p in prompts
        for i, text in enumerate(texts)
    ]


def test_labels_and_evaluation_are_saved_with_their_gold(finished):
    _, graph = finished
    labels = GoldLabels.load(graph["labels"].folder / "gold.json")
    assert labels.judge == "planted:noisy"
    assert labels.pairs - labels.ties > 10
    assert labels.accuracy.value < 0.9, "half of the labels are flipped"
    policies = GoldEvaluation.load(graph["evaluation"].folder / "gold.json").policies
    assert [policy.name for policy in policies] == ["start", "sft", "dpo", "ppo", "rest"]
    own = read_jsonl(graph["responses"].responses("sft"), Sample)
    score = PlantedJudge.load(graph["labels"].source("judge").spec.model).gold.score
    expected = sum(score(s.prompt.messages, s.response) for s in own) / len(own)
    assert policies[1].gold.value == pytest.approx(expected)


def test_the_printed_table_says_planted_and_gives_gold(finished):
    context, graph = finished
    console = Console(file=StringIO(), width=300)
    graph["evaluation"].show(context, console)
    printed = console.file.getvalue()
    assert "Judged by planted:noisy" in printed
    assert "Planted: simulated by rules, no model" in printed
    assert "Gold (planted) of sft: 1.00" in printed


def test_the_page_says_planted_on_its_first_screen_and_in_both_sections(finished):
    _, graph = finished
    stages = tuple(
        StageFolder(name, kind, graph[name].folder)
        for name, kind in (("labels", "label"), ("evaluation", "evaluate"))
    )
    page = text_of(render_page(ReportInputs({"recipe": "x"}, stages)))
    assert page.count("Planted: planted:noisy is a simulated judge that decides by rules") == 3
    assert "of labels are right (of" in page
    assert "Gold (planted) of sft: 1.00" in page


def test_another_judge_leaves_no_gold_behind(finished):
    context, graph = finished
    recipe = a_recipe(constitution=str(CONSTITUTION))
    other = build_graph(recipe, context.folder)
    context = RunContext(recipe, context.folder)
    for name in ("labels", "evaluation"):
        assert (graph[name].folder / "gold.json").is_file()
        other[name].run(context)
        assert not (graph[name].folder / "gold.json").exists()
