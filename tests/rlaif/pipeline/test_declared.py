"""What a stage declares changes with everything that is set for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import digested
from rlaif.pipeline.stage import Stage
from tests.support.training.recipes import ONE_ROUND, a_recipe

CHANGED = "changed"
TRAINED: dict[str, Any] = {
    "ppo": {"model": "sft", "eval_every": 2, "samples": "samples"},
    "reward": {"model": "sft"},
    "revisions": {"kind": "revise", "samples": "samples"},
    "dpo": {"labels": ["labels", "revisions.pairs"]},
}
COMPARED: dict[str, Any] = {
    "attacks": {"kind": "redteam", "model": "policy"},
    "revisions": {"kind": "revise", "samples": ["samples", "attacks", "attacks.twins"]},
    "best": {"kind": "best_of_n", "model": "policy", "reward": "reward"},
    "responses": {"policies": ["policy", "sft", "dpo", "ppo", "rest", "best"]},
    "comparison": {"kind": "compare", "evaluation": "evaluation", "arms": {"dpo": ["dpo"]}},
    "round": {**ONE_ROUND, "reward": "reward"},
    "kept": {"kind": "keep_round", "policy": ["dpo"], "evaluations": ["round"]},
}
WITHOUT_COMPARISON, EVERY_KIND = a_recipe(TRAINED), a_recipe(TRAINED | COMPARED)

# A value that no setting has by default cannot be guessed for every type: models are changed
# without validation, and their text is all that counts here.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def declared(recipe: Recipe = WITHOUT_COMPARISON) -> dict[str, Any]:
    folder = Path("run")
    context = RunContext(recipe, folder)
    return {s.name: digested(s, context) for s in build_graph(recipe, folder).stages}


def stage_of(kind: str) -> Stage:
    return next(s for s in build_graph(EVERY_KIND, Path("run")).stages if s.kind == kind)


def every_field() -> list[tuple[str, str, str]]:
    """(kind, settings or options, field) of every field of every kind."""
    return [
        (kind, part, field)
        for kind, stage in KINDS.items()
        for part, model in (("settings", stage.settings_class), ("options", stage.options_class))
        for field in model.model_fields
    ]


@pytest.mark.parametrize(("kind", "part", "field"), every_field())
def test_declared_changes_with_every_field_of_every_kind(
    kind: str, part: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file of figures has to exist and fit a judge, which other tests are about.
    monkeypatch.setattr(EvaluateStage, "_require_worth", lambda *_: None)
    stage, context = stage_of(kind), RunContext(EVERY_KIND, Path("run"))
    before = digested(stage, context)
    reads_options = {"prompts", "constitution"}  # used to find files: a value that exists
    values = {"prompts": {"split": "train", "kind": ("harmful",)}, "constitution": "overall"}
    value: Any = values[field] if field in reads_options else CHANGED
    model = getattr(stage, part)
    if field == "prompts":
        value = type(model.prompts)(**value)
    setattr(stage, part, model.model_copy(update={field: value}))
    assert digested(stage, context) != before


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.config])
def test_declared_changes_with_the_settings_of_a_loss(loss: str) -> None:
    stage, context = stage_of("dpo"), RunContext(EVERY_KIND, Path("run"))
    config = LOSSES[loss].config
    for field in config.model_fields.keys() - KINDS["dpo"].settings_class.model_fields.keys():
        settings = config.model_construct(loss=loss)
        stage.settings = settings.model_copy(update={field: 0.1})
        before = digested(stage, context)
        stage.settings = settings.model_copy(update={field: 0.2})
        assert digested(stage, context) != before


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (
            {"constitution": "overall"},
            {"labels", "revisions", "reward", "ppo", "evaluation", "report"},
        ),
        ({"system": "Be brief."}, {"samples", "sft", "reward", "ppo", "rest", "responses"}),
        ({"train_prompts": 20}, {"samples", "ppo", "rest"}),
        ({"heldout_prompts": 5}, {"responses"}),
        ({"heldout_pairs": 0.3}, {"sft", "reward"}),  # reward looks at pairs, from sft
        (
            {"models": {"policy": "other/policy", "judge": "org/judge"}},
            {  # not reward and ppo, which begin from files of sft-model
                "samples", "sft", "sft-model", "dpo", "rest", "responses", "evaluation", "report",
            },
        ),
        (
            {"models": {"policy": "org/policy", "judge": "other/judge"}},
            {"labels", "revisions", "ppo", "evaluation", "report"},
        ),
        (
            {"models": {"policy": "org/policy", "judge": {"model": "org/judge", "flags": ["-x"]}}},
            {"labels", "revisions", "ppo", "evaluation"},
        ),
        (
            {"models": {
                "policy": {"model": "org/policy", "chat_template_kwargs": {"x": 1}},
                "judge": "org/judge",
            }},
            {  # also what began from files of sft-model
                "samples", "sft", "sft-model", "reward", "dpo", "ppo", "rest", "responses",
                "evaluation", "report",
            },
        ),
        ({"minutes": {"dpo": 3}, "gflops": 2, "description": "other"}, set()),
    ],
)  # fmt: skip
def test_declared_of_what_a_recipe_sets_for_all_changes_where_it_matters(change, stages):
    changed = Recipe.model_validate(WITHOUT_COMPARISON.model_dump() | change)
    before, after = declared(), declared(changed)
    assert {name for name in before if before[name] != after[name]} == stages


def test_declared_changes_when_an_input_is_another_or_weighs_otherwise():
    for change in ({"labels": 2}, {"labels": [1, 2]}, ["labels", "samples"]):
        other = a_recipe({"sft": {"data": change}})
        assert declared(other)["sft"] != declared(a_recipe())["sft"]


@pytest.mark.parametrize("kind", ["sft", "dpo", "ppo", "rest"])
def test_declared_content_of_a_held_out_text_is_part_of_its_stage(kind, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Once upon a time.")
    recipe = a_recipe({kind: {"text_eval": str(text)}})
    before = declared(recipe)
    text.write_text("Twice upon a time.")
    after = declared(recipe)
    assert {name for name in before if before[name] != after[name]} == {kind}


@pytest.mark.parametrize("kind", ["ppo", "rest"])
def test_declared_code_of_a_reward_function_is_part_of_its_stage(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.py").write_text("def score(c, r): return [0.0 for _ in r]")
    recipe = a_recipe({kind: {"reward": ["reward", "mine.scores:score"]}})
    before = declared(recipe)
    (tmp_path / "mine" / "scores.py").write_text("def score(c, r): return [1.0 for _ in r]")
    after = declared(recipe)
    assert {name for name in before if before[name] != after[name]} == {kind}


def test_declared_of_a_judge_is_no_input_of_ppo_without_one():
    plain, other = a_recipe(), a_recipe(models={"policy": "org/policy", "judge": "other/judge"})
    assert declared(plain)["ppo"] == declared(other)["ppo"]


def test_declared_files_of_a_model_folder_are_part_of_it(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe = a_recipe(models={"policy": str(model), "judge": "org/judge"})
    before = declared(recipe)["samples"]
    (model / "config.json").touch()
    assert declared(recipe)["samples"] == before, "content counts, not the time"
    (model / "model.safetensors").write_bytes(b"weights")
    assert declared(recipe)["samples"] != before
