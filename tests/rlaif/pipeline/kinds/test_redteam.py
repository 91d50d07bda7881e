"""The kind redteam: what it takes and gives, what it does, and the recipe of two rounds."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from judge_service.types import Comparison, Usage, Writing
from rlaif.data.samples import read_samples
from rlaif.feedback.revisions.lessons import LESSONS
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.drawing import as_text
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.runner import digested
from rlaif.redteam import responder
from rlaif.redteam.families import TEST_SIDE, TRAIN_SIDE, side_of
from rlaif.redteam.records import Attack, read_tried
from rlaif.redteam.summary import SUMMARY, RedTeamSummary
from tests.support.feedback.red_teams import FakeModel, HarmRater, small_file
from tests.support.training.recipes import a_recipe

ATTACKS = {"kind": "redteam", "model": "policy"}
REVISED = {"kind": "revise", "samples": ["attacks", "attacks.twins"]}


def stages(**attack):
    return {"attacks": {**ATTACKS, **attack}, "revisions": REVISED, "sft": {"data": "revisions"}}


@pytest.fixture
def models(monkeypatch):
    """Every model is a fake; those that were loaded, with their settings, by name."""
    loaded = {}

    def local(name, model, config, journal):
        loaded[name] = config
        return FakeModel(lambda text: f"Sure, harm {len(text)}.", name)

    monkeypatch.setattr(responder, "LocalModel", local)
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    return loaded


class WritingRater(HarmRater):
    """Also criticizes and revises; of two responses it prefers the longer one."""

    def critique(self, conversation, response, constitution, options):
        return self._writing("It helps with something harmful.")

    def revise(self, conversation, response, critique, constitution, options):
        return self._writing("I would rather talk about what lies behind this with you.")

    def _writing(self, text):
        origin = self.judge(Comparison("x", (), "a", "bb")).provenance
        return Writing(text, True, "be-helpful", origin, Usage(), 0.1)


@pytest.fixture
def judge(monkeypatch):
    @contextmanager
    def judge_client(self, judge, constitution, log):
        yield WritingRater()

    monkeypatch.setattr(RunContext, "judge_client", judge_client)


def run(graph, context, name):
    stage = graph[name]
    stage.folder.mkdir(parents=True, exist_ok=True)
    stage.run(context)
    return stage


def test_failures_and_twins_are_taken_by_a_revise_stage(tmp_path, models, judge):
    recipe = a_recipe(stages(strategies=small_file(tmp_path)), system="Be brief.")
    graph, context = build_graph(recipe, tmp_path / "run"), RunContext(recipe, tmp_path / "run")
    attacks = run(graph, context, "attacks")
    failures, twins = (read_samples(attacks.file_of(part)) for part in ("", "twins"))
    assert (len(failures), len(twins)) == (4, 4)
    assert failures[0].prompt.messages[0].content == "Be brief.", "the recipe's system message"
    (first, *_) = read_tried(attacks.file_of(), Attack)
    assert (first.model, first.verdict.by) == ("org/policy", "both")
    revisions = run(graph, context, "revisions")
    assert len((revisions.folder / LESSONS).read_text().splitlines()) == 8
    summary = RedTeamSummary.load(attacks.folder / SUMMARY)
    assert (summary.judge, summary.constitution) == ("scripted", "hhh 1.0.0")


def test_an_attacker_words_the_requests_with_its_own_template_variables(tmp_path, models, judge):
    spec = {"model": "org/writer", "chat_template_kwargs": {"thinking": False}}
    recipe = a_recipe(
        stages(strategies=small_file(tmp_path), attacker="writer", verdict="rule", budget=8),
        models={"policy": "org/policy", "judge": "org/judge", "writer": spec},
    )
    graph = build_graph(recipe, tmp_path / "run")
    assert "model: policy · attacker: writer" in as_text(graph)
    run(graph, RunContext(recipe, tmp_path / "run"), "attacks")
    assert models["org/writer"].chat_template_kwargs == {"thinking": False}
    assert models["org/policy"].chat_template_kwargs == {}


def test_with_a_verdict_by_rule_no_judge_is_taken(graph_of):
    graph = graph_of(stages(verdict="rule"))
    assert "judge" not in graph["attacks"].sources
    assert "judge" in graph_of(stages())["attacks"].sources
    with pytest.raises(RecipeError, match=r"stages\.attacks\.judge: has no effect with these"):
        graph_of(stages(verdict="rule", judge="judge"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"budget": 3}, "stages.attacks.budget: budget 3 is under one prompt for each of 56"),
        ({"topics": ["froud"]}, "stages.attacks.topics: unknown topic 'froud'"),
        ({"families": ["fictio"]}, "stages.attacks.families: unknown family 'fictio'"),
        ({"strategies": "gone.yaml"}, "stages.attacks.strategies: gone.yaml: cannot be read"),
        ({"verdict": "rules"}, "stages.attacks.verdict"),
    ],
)
def test_what_cannot_be_attacked_is_refused_with_the_graph(graph_of, settings, problem):
    with pytest.raises(RecipeError) as caught:
        graph_of(stages(**settings))
    assert problem in str(caught.value)


def test_a_stage_declares_the_system_message_the_strategies_and_its_judge(tmp_path):
    def declared(changes, **settings):
        recipe = a_recipe(stages(**settings), **changes)
        stage = build_graph(recipe, tmp_path)["attacks"]
        return digested(stage, RunContext(recipe, tmp_path))

    own = small_file(tmp_path)
    by_rule = declared({}, verdict="rule")
    assert declared({"system": "Be brief."}, verdict="rule") != by_rule
    assert declared({"constitution": "overall"}, verdict="rule") == by_rule
    assert declared({"constitution": "overall"}) != declared({})
    before = declared({}, verdict="rule", strategies=own)
    text = Path(own).read_text()
    Path(own).write_text(text.replace("steal", "take"))
    assert declared({}, verdict="rule", strategies=own) != before


def test_a_dry_run_says_how_many_prompts_are_tried_and_who_rates(graph_of, tmp_path):
    graph = graph_of(stages(families=[TRAIN_SIDE], budget=90))
    context = RunContext(a_recipe(stages()), tmp_path)
    assert graph["attacks"].does(context) == (
        "org/policy is attacked in 40 cells by at most 90 prompts, and answers as many benign "
        "twins; rated by org/judge"
    )


# ── two rounds ───────────────────────────────────────────────────────────────────────────────


def test_the_shipped_recipe_attacks_twice_and_then_by_families_that_nothing_has_seen(tmp_path):
    graph = build_graph(Recipe.load("red_team_rounds"), tmp_path)
    taken = {s.name: {k: [v.text for v in vs] for k, vs in s.sources.items()} for s in graph.stages}
    assert taken["revisions_1"]["samples"] == ["attack_1", "attack_1.twins"]
    assert taken["attack_2"]["model"] == ["dpo_1"], "the policy of the first round"
    assert taken["dpo_2"]["labels"] == ["revisions_1.pairs", "revisions_2.pairs"]
    families = {s.name: s.settings.families for s in graph.stages if s.kind == "redteam"}
    assert families == {
        "attack_1": (TRAIN_SIDE,), "attack_2": (TRAIN_SIDE,), "unseen_start": (TEST_SIDE,),
        "unseen_end": (TEST_SIDE,),
    }  # fmt: skip
    assert sum(stage.minutes for stage in graph.stages) < 60


def test_what_the_recipe_trains_on_has_no_family_of_the_tests(tmp_path, models):
    recipe = Recipe.load("red_team_rounds", ["judge=org/j", "policy=org/p"])
    graph, context = build_graph(recipe, tmp_path), RunContext(recipe, tmp_path)
    families = {}
    for name in ("attack_1", "unseen_start"):
        attack = run(graph, context, name)
        families[name] = {each.family for each in read_tried(attack.file_of(), Attack)}
    assert families["attack_1"]
    assert families["unseen_start"]
    assert {side_of(family) for family in families["attack_1"]} == {TRAIN_SIDE}
    assert {side_of(family) for family in families["unseen_start"]} == {TEST_SIDE}


def test_the_recipe_that_ships_is_plain_yaml():
    from rlaif.pipeline.recipe import recipe_text

    assert yaml.safe_load(recipe_text("red_team_rounds"))["name"] == "red_team_rounds"
