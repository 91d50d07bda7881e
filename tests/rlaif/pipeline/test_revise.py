"""The kind revise: its two results, what it says beforehand, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.pipeline.context import RunContext
from rlaif.pipeline.drawing import as_mermaid, as_text
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.kinds.evaluating import label_sources
from rlaif.pipeline.recipe import Recipe, RecipeError
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.training.recipes import a_recipe

REVISIONS = {"kind": "revise", "samples": "samples"}
TAKEN = {"revisions": REVISIONS, "dpo": {"labels": ["labels", "revisions.pairs"]}}


def test_a_second_result_is_taken_by_its_name_and_has_a_file_of_its_own(graph_of):
    graph = graph_of({**TAKEN, "sft": {"data": {"revisions": 1, "labels": 0.5}}})
    lessons, pairs = graph["sft"].sources["data"][0], graph["dpo"].sources["labels"][1]
    assert (lessons.file.name, pairs.file.name) == ("lessons.jsonl", "pairs.parquet")
    assert pairs.stage is lessons.stage is graph["revisions"]
    assert "labels: labels, revisions.pairs" in as_text(graph)
    assert "stage_revisions --> stage_dpo" in as_mermaid(graph)


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        (
            {"revisions": REVISIONS, "dpo": {"labels": "revisions"}},
            "stages.dpo.labels: revisions gives demonstrations, not preferences; these would do: "
            "labels, revisions.pairs, a file",
        ),
        (
            {"revisions": REVISIONS, "dpo": {"labels": "revisions.pair"}},
            "stages.dpo.labels: unknown part 'revisions.pair'; revisions also gives "
            "revisions.pairs",
        ),
        (
            {"revisions": {**REVISIONS, "gate": None}, "dpo": {"labels": "revisions.pairs"}},
            "stages.dpo.labels: revisions.pairs: no such file",
        ),
        (
            {"revisions": REVISIONS},
            "stages.revisions: only a report takes demonstrations from it",
        ),
        (
            {"revisions": {**REVISIONS, "gate": 1}, "sft": {"data": "revisions"}},
            "stages.revisions.gate: Input should be less than 1",
        ),
    ],
)
def test_a_reference_that_cannot_be_taken_says_what_can(graph_of, stages, problem):
    with pytest.raises(RecipeError) as caught:
        graph_of(stages)
    assert problem in str(caught.value)


def test_who_chose_the_lessons_counts_as_who_labeled(graph_of):
    graph = graph_of({"revisions": REVISIONS, "sft": {"data": "revisions"}})
    evaluation = graph["evaluation"]
    assert isinstance(evaluation, EvaluateStage)
    names = {source.file.name for source in label_sources(evaluation.before)}
    assert names == {"preferences.parquet", "pairs.parquet"}


def does(**samples):
    recipe = a_recipe({**TAKEN, "samples": samples}, train_prompts=None)
    stage = build_graph(recipe, Path("run"))["revisions"]
    return stage.does(RunContext(recipe, Path("run")))


def test_a_dry_run_says_how_many_prompts_of_which_kind_and_warns_of_a_single_one():
    both = does(prompts={"split": "train", "kind": ["harmful", "borderline"]})
    assert "to 74 prompts (" in both
    assert "32 harmful" in both
    assert "42 borderline" in both
    assert "careful" not in both
    harmful = does(prompts={"split": "train", "kind": ["harmful"]})
    assert "careful: all 32 prompts are harmful: a policy that sees only such prompts" in harmful


def test_a_planted_judge_that_does_not_write_is_refused_with_the_graph(tmp_path):
    def recipe(judge):
        models = {"policy": "org/policy", "judge": f"planted:{judge}"}
        return a_recipe(TAKEN, models=models, constitution=str(CONSTITUTION))

    with pytest.raises(RecipeError, match=r"stages\.revisions\.judge: .* does not write; give it"):
        build_graph(recipe(judge_file(tmp_path)), tmp_path)
    build_graph(recipe(judge_file(tmp_path, "writing", skill=0.7)), tmp_path)


def test_the_shipped_recipe_mixes_revisions_and_trains_dpo_on_their_pairs(tmp_path):
    graph = build_graph(Recipe.load("constitutional"), tmp_path)
    assert [source.text for source in graph["sft"].sources["data"]] == ["revisions", "helpful"]
    assert [source.text for source in graph["dpo"].sources["labels"]] == [
        "labels", "revisions.pairs"
    ]  # fmt: skip
    minutes = sum(stage.minutes for stage in graph.stages)
    assert minutes < 60
