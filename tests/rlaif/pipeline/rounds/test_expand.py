"""The recipe that a recipe with rounds stands for, and the mistakes that are found before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from constitution.errors import UserError
from rlaif.data.records import RecordError
from rlaif.pipeline.comparing.plan import ComparisonRequest, comparison_plan
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph, without_rounds
from rlaif.pipeline.recipe import Recipe, RecipeError, shipped_recipes
from tests.rlaif.pipeline.rounds.conftest import in_rounds

RUN = Path("run")


def stages(stages: dict[str, Any] | None = None, /, **rounds: Any) -> dict[str, Any]:
    recipe = without_rounds(in_rounds(stages, **rounds))
    build_graph(recipe, RUN)  # every problem would be an error
    return dict(recipe.stages)


def problem(stages: dict[str, Any] | None = None, /, **rounds: Any) -> str:
    with pytest.raises(RecipeError) as error:
        build_graph(in_rounds(stages, **rounds), RUN)
    return str(error.value)


def test_expand_every_round_has_the_stages_in_a_folder_of_its_own() -> None:
    graph = build_graph(in_rounds(count=2), RUN)
    assert [stage.name for stage in graph.stages] == [
        "round-00/answers",
        "round-01/samples", "round-01/labels", "round-01/dpo", "round-01/dpo-model",
        "round-01/answers", "round-01/evaluation",
        "round-02/samples", "round-02/labels", "round-02/dpo", "round-02/dpo-model",
        "round-02/answers", "round-02/evaluation",
        "dpo", "report",
    ]  # fmt: skip
    assert graph["round-02/dpo-model"].folder == RUN / "round-02" / "dpo-model"
    assert graph["round-02/samples"].gate is graph["round-01/evaluation"]
    assert graph["round-01/samples"].gate is None


def test_expand_a_round_samples_from_the_policy_of_the_round_before() -> None:
    found = stages()
    assert found["round-01/samples"]["model"] == "policy"
    assert found["round-03/samples"]["model"] == "round-02/dpo"
    assert found["round-03/dpo"]["model"] == "policy"
    assert found["round-03/dpo"]["labels"] == [f"round-0{n}/labels" for n in (1, 2, 3)]
    last = stages(start="last", labels="last")
    assert last["round-03/dpo"]["model"] == "round-02/dpo"
    assert last["round-03/dpo"]["labels"] == "round-03/labels"


def test_expand_a_reward_model_and_ppo_begin_from_one_model_and_the_reward_scores_rounds() -> None:
    online = {"dpo": None, "reward": {"kind": "reward", "model": "policy", "labels": "labels"}}
    online["ppo"] = {"kind": "ppo", "model": "policy", "reward": "reward"}
    found = stages(online, start="last")
    assert found["round-02/ppo"]["reward"] == "round-02/reward"
    assert found["round-02/reward"]["model"] == found["round-02/ppo"]["model"] == "round-01/ppo"
    assert found["round-02/evaluation"]["reward"] == "round-02/reward"


def test_expand_a_reward_model_that_only_scores_is_a_part_of_rounds_where_they_name_it() -> None:
    beside = {"reward": {"kind": "reward", "model": "policy", "labels": "labels"}}
    found = stages(beside, policy="dpo", reward="reward")
    assert found["round-02/reward"]["labels"] == ["round-01/labels", "round-02/labels"]


def test_expand_what_leads_to_the_start_runs_once() -> None:
    trunk = {
        "drafts": {"kind": "sample", "model": "policy"},
        "revisions": {"kind": "revise", "samples": "drafts"},
        "sft": {"kind": "sft", "model": "policy", "data": {"revisions": 1}},
        "samples": {"kind": "sample", "model": "sft"},
        "dpo": {"model": "sft", "labels": ["labels", "revisions.pairs"]},
    }
    found = stages(trunk, policy="dpo", count=2)
    assert {"drafts", "revisions", "sft"} <= found.keys()
    assert found["round-01/dpo"]["model"] == found["round-02/dpo"]["model"] == "sft"
    assert found["round-02/dpo"]["labels"] == [
        "round-01/labels", "round-02/labels", "revisions.pairs",
    ]  # fmt: skip
    assert found["round-02/evaluation"]["start"] == "sft"


def test_expand_a_training_inside_the_round_begins_again_in_each() -> None:
    inside = {
        "sft": {"kind": "sft", "model": "policy", "data": {"labels": 1.0, "samples": 0.5}},
        "dpo": {"model": "sft"},
    }
    found = stages(inside, count=2)
    assert found["round-02/dpo"]["model"] == "round-02/sft"
    assert found["round-02/sft"]["model"] == "policy"
    assert found["round-02/sft"]["data"] == {
        "round-01/labels": 0.5, "round-02/labels": 0.5,
        "round-01/samples": 0.25, "round-02/samples": 0.25,
    }  # fmt: skip
    assert stages(inside, count=2, start="last")["round-02/sft"]["model"] == "round-01/dpo"


def test_expand_rounds_share_no_prompt_and_leave_none() -> None:
    recipe = without_rounds(in_rounds())
    graph, context = build_graph(recipe, RUN), RunContext(recipe, RUN)
    parts = [
        [prompt.id for prompt in context.prompts(graph[f"round-0{n}/samples"].options.prompts)]
        for n in (1, 2, 3)
    ]
    assert [len(part) for part in parts] == [10, 10, 10]
    every = [prompt.id for prompt in context.prompts("train")]
    assert sorted(id for part in parts for id in part) == sorted(every)


def test_expand_more_parts_leave_earlier_rounds_as_they_are() -> None:
    few, many = stages(count=2, parts=5), stages(count=4, parts=5)
    first = [name for name in few if name.startswith("round-0")]
    assert {name: few[name] for name in first} == {name: many[name] for name in first}


def test_expand_other_stages_take_the_policy_that_is_kept() -> None:
    rest = {
        "responses": {"kind": "respond", "policies": ["policy", "dpo"]},
        "evaluation": {"kind": "evaluate", "responses": "responses"},
        "report": {"kind": "report", "of": ["labels", "evaluation"]},
    }
    found = stages(rest, count=2)
    assert found["responses"]["policies"] == ["policy", "dpo"]
    assert found["dpo"]["kind"] == "keep_round"
    assert found["report"]["of"] == ["evaluation", "round-01/labels", "round-02/labels"]


def test_expand_settings_of_answers_are_those_of_the_samples_but_for_their_number() -> None:
    samples = {"kind": "sample", "model": "policy", "n": 4, "max_new_tokens": 48}
    assert stages({"samples": samples}, count=1)["round-01/answers"] == {
        "kind": "sample", "model": "round-01/dpo", "prompts": "heldout", "n": 1,
        "max_new_tokens": 48,
    }  # fmt: skip
    assert stages(count=1, answers={"n": 2})["round-00/answers"]["n"] == 2


def test_expand_minutes_grow_with_the_data_of_all_rounds() -> None:
    recipe = in_rounds().model_copy(update={"minutes": {"labels": 2.0, "dpo": 3.0}})
    minutes = without_rounds(recipe).minutes
    assert (minutes["round-03/labels"], minutes["round-03/dpo"]) == (2.0, 9.0)
    assert build_graph(recipe, RUN)["round-02/dpo"].minutes == 6.0


def test_expand_the_shipped_recipe_is_iterative_dpo() -> None:
    assert "iterative_dpo" in shipped_recipes()
    found = without_rounds(Recipe.load("iterative_dpo")).stages
    assert found["round-03/dpo"] is not None
    assert found["round-03/dpo"]["model"] == "policy"
    once = Recipe.load("iterative_dpo", ["rounds=null"])
    assert [stage.name for stage in build_graph(once, RUN).stages] == [
        "samples", "labels", "dpo", "report",
    ]  # fmt: skip


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────


def test_rounds_stages_that_do_not_feed_themselves_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.parquet"
    labels.touch()
    stages = {"samples": None, "labels": None, "dpo": {"labels": str(labels)}}
    assert problem(stages) == (
        "rounds: the stages that lead to dpo do not feed themselves: none of them samples from "
        "policy, where dpo begins, so every round would be the same; let what dpo learns from come "
        "from a stage such as {kind: sample, model: policy}, or remove rounds"
    )


def test_rounds_samples_of_another_model_do_not_feed_themselves() -> None:
    recipe = in_rounds({"samples": {"kind": "sample", "model": "other"}})
    models = {**recipe.model_dump()["models"], "other": "org/other"}
    recipe = Recipe.model_validate({**recipe.model_dump(), "models": models})
    with pytest.raises(RecipeError, match="none of labels, samples samples from policy"):
        build_graph(recipe, RUN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cuont": 3}, "rounds.cuont: unknown setting; did you mean 'count'"),
        ({"stop": {"patiense": 1}}, "rounds.stop.patiense: unknown setting; did you mean 'patien"),
        ({"start": "first"}, "rounds.start: "),
        ({"count": 0}, "rounds.count: "),
        ({"count": 3, "parts": 2}, "parts=2: less than count=3"),
        ({"stop": {"win_rate_over": 1.5}}, "rounds.stop.win_rate_over: "),
    ],
)
def test_rounds_unknown_fields_and_values_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    base = in_rounds().model_dump(mode="json") | {"rounds": {"count": 3, **settings}}
    recipe.write_text(yaml.safe_dump(base))
    with pytest.raises(RecipeError) as error:
        Recipe.load(recipe)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("stages", "settings", "message"),
    [
        ({}, {"policy": "dop"}, "rounds.policy: unknown stage 'dop'; did you mean 'dpo'"),
        ({}, {"policy": "labels"}, "rounds.policy: labels gives preferences, not a policy"),
        (
            {"sft": {"kind": "sft", "model": "policy", "data": "labels"}},
            {},
            "rounds.policy: a round makes one policy, and several stages train one (sft, dpo)",
        ),
        ({"dpo": None}, {}, "no stage trains one; add such a stage, or remove rounds"),
        ({}, {"reward": "labels"}, "rounds.reward: no stage 'labels' that trains a reward model"),
        (
            {"samples": {"kind": "sample", "model": "policy", "n": 1}},
            {},
            "stages.samples.n: 1 response to a prompt makes no pair",
        ),
        (
            {"samples": {"kind": "sample", "model": "policy", "temperature": 0}},
            {},
            "stages.samples: temperature 0 gives the same response every time",
        ),
        (
            {"second": {"kind": "dpo", "model": "dpo", "labels": "labels"}},
            {"policy": "dpo"},
            "stages.second.labels: labels is repeated in every round; take dpo, which is the",
        ),
        (
            {"round-01": {"kind": "dpo", "model": "dpo", "labels": "mine.parquet"}},
            {"policy": "dpo"},
            "stages.round-01.labels: mine.parquet: no such file",
        ),
        (
            {"answers": {"kind": "label", "samples": "samples"}, "dpo": {"labels": "answers"},
             "labels": None},
            {},
            "stages.answers: rounds need this name",
        ),
        (
            {"labels": {"pairs_per_prompt": 2}},
            {"pairs": "extremes"},
            "stages.round-01/labels: pairs_per_prompt=2: has no effect with pairs=extremes",
        ),
        ({}, {"judges": ["thrid"]}, "judges: unknown name 'thrid'"),
        ({"dpo": {"beeta": 1}}, {}, "stages.dpo.beeta: unknown setting; did you mean 'beta'"),
    ],
)  # fmt: skip
def test_rounds_mistakes_are_found_before_anything_runs(
    stages: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    assert message in problem(stages, **settings)


def test_rounds_a_name_of_a_round_is_for_rounds_alone() -> None:
    recipe = in_rounds().model_copy(update={"rounds": None})
    renamed = {f"round-01/{n}" if n == "dpo" else n: s for n, s in recipe.stages.items()}
    with pytest.raises(RecipeError, match="invalid name; use at most 100 letters"):
        build_graph(recipe.model_copy(update={"stages": renamed}), RUN)


def test_rounds_more_than_there_are_prompts_are_refused() -> None:
    recipe = without_rounds(in_rounds(parts=40))
    graph = build_graph(recipe, RUN)
    with pytest.raises(RecordError, match="30 prompts of split 'train' cannot be divided into 40"):
        graph["round-01/samples"].inputs(RunContext(recipe, RUN))


def test_rounds_are_not_compared() -> None:
    with pytest.raises(UserError, match="methods are compared in one round; add rounds=null"):
        comparison_plan(in_rounds(), ComparisonRequest(("dpo",), 1))
