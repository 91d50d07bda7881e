"""A recipe's graph: what refers to what, in which order, and which mistakes are found at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rlaif.pipeline.drawing import as_mermaid, as_text
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds import KINDS
from rlaif.pipeline.recipe import Recipe, RecipeError
from rlaif.pipeline.stage import ArtifactType
from tests.support.training.recipes import ONE_ROUND, STAGES, a_recipe

BRANCHES = {
    "samples": {"kind": "sample", "model": "policy"},
    "labels": {"kind": "label", "samples": "samples"},
    "dpo_soft": {"kind": "dpo", "model": "policy", "labels": "labels"},
    "dpo_hard": {"kind": "dpo", "model": "policy", "labels": "labels", "loss": "sigmoid"},
}


def names(graph):
    return [stage.name for stage in graph.stages]


def problems(stages=None, **changes):
    with pytest.raises(RecipeError) as error:
        build_graph(a_recipe(stages, **changes), Path("run"))
    return str(error.value)


def test_graph_stages_come_after_what_they_take_in_whatever_order_a_recipe_lists_them(tmp_path):
    listed = list(STAGES.items())
    for seed in range(20):
        random.Random(seed).shuffle(listed)
        recipe = a_recipe().model_copy(update={"stages": dict(listed)})
        ordered = names(build_graph(recipe, tmp_path))
        for stage in build_graph(recipe, tmp_path).stages:
            for before in stage.predecessors:
                assert ordered.index(before.name) < ordered.index(stage.name)
        assert ordered[-1] == "report"


def test_graph_independent_stages_keep_the_order_of_the_recipe(graph_of):
    assert names(graph_of()) == list(STAGES)


def test_graph_every_kind_of_stage_fits_a_recipe(graph_of):
    revised = {
        "attacks": {"kind": "redteam", "model": "policy"},
        "revisions": {"kind": "revise", "samples": ["samples", "attacks"]},
        "sft": {"data": ["labels", "revisions"]},
        "best": {"kind": "best_of_n", "model": "policy", "reward": "reward"},
        "responses": {"policies": ["policy", "sft", "dpo", "ppo", "rest", "best"]},
        "comparison": {"kind": "compare", "evaluation": "evaluation", "arms": {"dpo": ["dpo"]}},
        "round": ONE_ROUND,
        "kept": {"kind": "keep_round", "policy": ["dpo"], "evaluations": ["round"]},
    }
    assert {stage.kind for stage in graph_of(revised).stages} == KINDS.keys()


def test_graph_one_label_stage_feeds_several_branches_and_files(tmp_path):
    merged = tmp_path / "merged.parquet"
    merged.touch()
    stages = BRANCHES | {
        "dpo_files": {"kind": "dpo", "model": "policy", "labels": ["labels", str(merged)]}
    }
    graph = build_graph(a_recipe().model_copy(update={"stages": stages}), tmp_path)
    both = graph["dpo_files"].sources["labels"]
    assert [source.text for source in both] == ["labels", str(merged)]
    assert both[1].file == merged
    assert names(graph)[-3:] == ["dpo_soft", "dpo_hard", "dpo_files"]


def test_graph_training_from_an_adapter_takes_it_merged(graph_of):
    graph = graph_of({"dpo": {"model": "sft"}, "reward": {"model": "sft"}, "ppo": {"model": "sft"}})
    merged = graph["sft-model"]
    assert merged.added
    assert graph["dpo"].source("model").stage is merged
    assert graph["ppo"].source("model").model == graph["reward"].source("model").model
    assert names(graph).index("sft") < names(graph).index("sft-model") < names(graph).index("dpo")
    assert "sft-model" not in [s.name for s in graph["report"].predecessors]


def test_graph_training_from_a_fully_trained_policy_takes_it_as_it_is(graph_of):
    graph = graph_of({"sft": {"lora": None}, "dpo": {"model": "sft"}})
    assert graph["dpo"].source("model").stage is graph["sft"]
    assert "sft-model" not in names(graph)


def test_graph_a_merge_of_ones_own_is_used_under_the_name_that_would_be_added(graph_of):
    graph = graph_of({"sft-model": {"kind": "merge", "policy": "sft"}, "dpo": {"model": "sft"}})
    assert graph["dpo"].source("model").stage is graph["sft-model"]
    assert not graph["sft-model"].added


def test_graph_from_python_files_may_be_paths_and_lists_tuples(graph_of, tmp_path):
    merged = tmp_path / "merged.parquet"
    merged.touch()
    graph = graph_of({"dpo": {"labels": ("labels", merged)}, "sft": {"data": {merged: 0.5}}})
    assert graph["dpo"].sources["labels"][1].file == merged
    assert graph["sft"].sources["data"][0].weight == 0.5


def test_graph_sources_have_weights(graph_of):
    graph = graph_of({"sft": {"data": {"labels": 2, "samples": 0.5}}})
    assert [(s.text, s.weight) for s in graph["sft"].sources["data"]] == [
        ("labels", 2.0),
        ("samples", 0.5),
    ]


def test_graph_a_stage_left_out_is_left_out_of_lists_too(graph_of):
    graph = graph_of({"rest": None})
    assert "rest" not in names(graph)
    assert [s.text for s in graph["responses"].sources["policies"]] == [
        "policy", "sft", "dpo", "ppo",
    ]  # fmt: skip


def test_graph_ppo_takes_a_judge_and_samples_only_to_be_watched(graph_of):
    assert set(graph_of()["ppo"].sources) == {"model", "reward"}
    watched = graph_of({"ppo": {"eval_every": 5, "samples": "samples"}})["ppo"]
    assert set(watched.sources) == {"model", "reward", "judge", "samples"}


def test_graph_rewards_may_be_several_with_weights_and_from_elsewhere(graph_of):
    mix = {"reward": 1, "judge:127.0.0.1:50051": 0.5, "json:dumps": -0.1}
    sources = graph_of({"ppo": {"reward": mix}})["ppo"].sources["reward"]
    assert [(s.text, s.weight) for s in sources] == list(mix.items())


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"dpo": {"kind": "dop"}}, "stages.dpo: unknown kind 'dop'; did you mean 'dpo'?"),
        (
            {"dpo": {"kind": None}},
            "stages.dpo: missing kind; known: sample, label, redteam",
        ),
        (
            {"dpo": {"betta": 0.1}},
            "stages.dpo.betta: unknown setting; did you mean 'beta'?",
        ),
        ({"dpo": {"beta": -1}}, "stages.dpo.beta: Input should be greater than 0 (found -1)"),
        (
            {"dpo": {"label": "labels"}},
            "stages.dpo.label: unknown setting; did you mean 'labels'?",
        ),
        (
            {"dpo": {"labels": "samples"}},
            "stages.dpo.labels: samples gives samples, not preferences; these would do: labels, "
            "a file",
        ),
        (
            {"ppo": {"reward": "dpo"}},
            "stages.ppo.reward: dpo gives a policy, not a reward model; these would do: reward",
        ),
        (
            {"labels": {"samples": "policy"}},
            "stages.labels.samples: policy is a model, not samples; these would do: samples",
        ),
        (
            {"dpo": {"labels": "lables"}},
            "stages.dpo.labels: unknown name 'lables'; did you mean 'labels'?",
        ),
        (
            {"dpo": {"labels": "gone/labels.parquet"}},
            "stages.dpo.labels: gone/labels.parquet: no such file",
        ),
        ({"dpo": {"model": ["policy"]}}, "stages.dpo.model: expected a name (found ['policy'])"),
        (
            {"dpo": {"labels": []}},
            "stages.dpo.labels: expected a name or a list of names (found [])",
        ),
        (
            {"dpo": {"labels": ["labels", "labels"]}},
            "stages.dpo.labels: labels is named twice; remove one",
        ),
        (
            {"sft": {"data": {"labels": 0}}},
            "stages.sft.data: expected names and weights above 0, or [first, last] "
            "(found 'labels': 0)",
        ),
        ({"sft": {"data": {"labels": [0, 0]}}}, "or [first, last] (found 'labels': [0, 0])"),
        ({"ppo": {"reward": {"reward": [1, 2]}}}, "weights other than 0 (found 'reward': [1, 2])"),
        (
            {"responses": {"policies": ["policy"]}},
            "stages.responses.policies: expected at least 2: the start, then the policies",
        ),
        (
            {"ppo": {"eval_every": 5}},
            "stages.ppo.samples: missing input; these would do: samples, a file",
        ),
        (
            {"ppo": {"samples": "samples"}},
            "stages.ppo.samples: has no effect with these settings; remove it",
        ),
        (
            {"reward": None},
            "stages.ppo.reward: reward is left out of this recipe; these would do: a folder, "
            "judge:HOST:PORT",
        ),
        (
            {"again": {"kind": "dpo", "model": "policy", "labels": "labels"}},
            "stages.again: only a report takes a policy from it; sft, reward, dpo, ppo, rest, "
            "responses could take it; or remove it, or keep it with results: [again]",
        ),
        (
            {"DPO": {"kind": "report"}},
            "stages.DPO: writes DPO, as dpo does; give one of them another name or `file`",
        ),
        (
            {"second": {"kind": "report"}},
            "stages.second: writes report.html, as report does; give one of them another name",
        ),
        ({"a b": {"kind": "report"}}, "stages.a b: invalid name; use at most 100 letters, digits"),
        ({"a\n": {"kind": "report"}}, "stages.a\n: invalid name; use at most 100 letters, digits"),
        ({"a" * 101: {"kind": "report"}}, ": invalid name; use at most 100 letters, digits"),
        ({"dpo": {"kind": ["dpo"]}}, "stages.dpo: unknown kind ['dpo']"),
        (
            {"POLICY": {"kind": "report"}},
            "stages.POLICY: this name is taken by one of the recipe's models; choose another",
        ),
        (  # nothing adds labels up by weights
            {"dpo": {"labels": {"labels": 0.2}}},
            "stages.dpo.labels: expected a name or a list of names (found {'labels': 0.2})",
        ),
        ({"sft": {"data": {"labels": -1}}}, "stages.sft.data: expected names and weights above 0"),
        ({"sft": {"data": {"labels": 10**400}}}, "expected names and weights above 0, or "),
        ({"ppo": {"reward": {"reward": float("nan")}}}, "expected names and weights other than 0"),
        ({"dpo": {"labels": "~nobody-here/a.parquet"}}, "~nobody-here/a.parquet: no such file"),
        ({"dpo": {"labels": "x/" + "a" * 5000}}, ": no such file; give a file by its path"),
        ({"dpo": {"labels": "./"}}, "stages.dpo.labels: ./: not a file; give a file by its path"),
        ({"ppo": {"reward": "./no-such/"}}, "stages.ppo.reward: ./no-such/: no such folder"),
        ({"ppo": {"reward": "./"}}, "stages.ppo.reward: .: not a reward model (reward.json is "),
        ({"ppo": {"reward": "no_such:f"}}, "stages.ppo.reward: reward 'no_such:f': no module"),
        (
            {"sft": {"lora": None}, "whole": {"kind": "merge", "policy": "sft"}},
            "stages.whole.policy: sft trains a whole model (lora: null), so there is nothing to "
            "merge; remove whole, and name sft where it was taken",
        ),
        (
            {
                "sft-model": {"kind": "dpo", "model": "policy", "labels": "labels"},
                "dpo": {"model": "sft"},
            },
            "stages.sft-model: this name is needed for sft merged into its model; choose another",
        ),
        (
            {"prompts": {"kind": "report"}},
            "stages.prompts: this name is taken by a key of recipes; choose another",
        ),
        (
            {"policy": {"kind": "report"}},
            "stages.policy: this name is taken by one of the recipe's models; choose another",
        ),
    ],
)
def test_graph_a_mistake_names_the_stage_and_what_would_do(stages, message):
    assert message in problems(stages)


def test_graph_what_only_an_unused_stage_takes_is_not_blamed():
    message = problems({"responses": {"policies": ["policy", "sft", "dpo"]}, "rest": None})
    assert message.startswith("stages.ppo: only a report takes a policy from it; ")
    assert "stages.reward" not in message


def test_graph_a_cycle_is_named_stage_by_stage():
    message = problems({"samples": {"model": "dpo"}})
    assert "these stages wait for each other: " in message
    for name in ("samples", "labels", "dpo"):
        assert name in message
    assert "wait for each other: dpo → dpo" in problems({"dpo": {"model": "dpo"}})


def test_graph_all_problems_are_reported_at_once():
    message = problems(
        {"dpo": {"betta": 1, "alpha": 2}, "ppo": {"clip": -1}, "sft": {"model": "polcy"}}
    )
    assert [line.split(":")[0] for line in message.splitlines()] == [
        "stages.dpo.betta", "stages.dpo.alpha", "stages.ppo.clip", "stages.sft.model",
    ]  # fmt: skip


def test_graph_a_judge_must_be_brought_along():
    assert problems(models={"policy": "org/policy"}).startswith(
        "stages.labels.judge: missing input; these would do: policy"
    )
    message = problems({"labels": {"judge": "dpo"}})
    assert "stages.labels.judge: dpo gives a policy, not a model" in message


def test_graph_a_model_that_no_stage_uses_is_refused():
    message = problems(models={"policy": "a/b", "judge": "a/c", "spare": "a/d"})
    assert message == "models.spare: no stage uses it; remove it, or name it in a stage"


def test_graph_results_keep_a_stage_that_nothing_takes(graph_of):
    stages = {"again": {"kind": "dpo", "model": "policy", "labels": "labels"}}
    assert "again" in names(graph_of(stages, results=["again", "evaluation"]))
    message = problems(stages, results=["agan"])
    assert "results: unknown stage 'agan'; did you mean 'again'?" in message


def test_graph_without_evaluation_the_last_stages_are_the_results(tmp_path):
    recipe = a_recipe().model_copy(update={"stages": BRANCHES})
    assert names(build_graph(recipe, tmp_path)) == list(BRANCHES)


def test_graph_minutes_belong_to_stages():
    assert "minutes.dpq: unknown stage; did you mean 'dpo'?" in problems(minutes={"dpq": 1})


def test_graph_inputs_options_and_settings_of_a_kind_share_no_name():
    for kind in KINDS.values():
        slots, options = set(kind.takes), set(kind.options_class.model_fields)
        settings = set(kind.settings_class.model_fields)
        assert not slots & options, kind
        assert not (slots | options) & settings, kind
        assert "kind" not in slots | options | settings


def test_graph_what_kinds_take_some_kind_or_the_recipe_gives():
    given = {kind.gives for kind in KINDS.values()} | {ArtifactType.MODEL}
    for kind in KINDS.values():
        for slot in kind.takes.values():
            assert given & set(slot.takes), (kind, slot)


# ── drawing ──────────────────────────────────────────────────────────────────────────────────


def test_drawing_text_has_a_line_per_stage_with_what_it_takes(graph_of):
    lines = as_text(graph_of({"sft": {"data": {"labels": 0.5}}})).splitlines()
    assert lines[0] == "samples     sample    model: policy"
    assert "sft         sft       model: policy · data: 0.5*labels" in lines
    assert lines[-1] == "report      report    every stage"


def test_drawing_mermaid_has_every_stage_and_edge_once(graph_of):
    drawn = as_mermaid(graph_of()).splitlines()
    assert drawn[0] == "flowchart LR"
    assert len(drawn) == len(set(drawn))
    assert "    stage_labels --> stage_dpo" in drawn
    assert '    from_policy(["policy"])' in drawn
    assert "    from_judge --> stage_evaluation" in drawn


def test_drawing_mermaid_ids_are_safe_and_different(tmp_path):
    stages = {"end": BRANCHES["samples"], "a-b": BRANCHES["samples"], "a_b": BRANCHES["samples"]}
    recipe = Recipe(
        name="x", models={"policy": "a/b"}, constitution="hhh", prompts="quickstart", stages=stages
    )
    drawn = as_mermaid(build_graph(recipe, tmp_path))
    ids = {line.strip().partition("[")[0] for line in drawn.splitlines() if "<br/>" in line}
    assert len(ids) == 3
    assert "end" not in ids


# ── variables of chat templates ──────────────────────────────────────────────────────────────

SILENT = {"enable_thinking": False}
THINKER = {"policy": {"model": "org/policy", "chat_template_kwargs": SILENT}, "judge": "org/judge"}


def test_graph_all_stages_of_a_model_have_its_template_s_variables(graph_of):
    later = {"ppo": {"model": "sft"}}  # over sft-model, the merged adapter
    graph = graph_of(later, models=THINKER)
    of_the_model = ("samples", "sft", "reward", "dpo", "ppo", "rest")
    assert all(graph[name].settings.chat_template_kwargs == SILENT for name in of_the_model)
    respond = graph["responses"]
    assert {name: p.template_kwargs for name, p in respond.policies.items()} == dict.fromkeys(
        ["start", "sft", "dpo", "ppo", "rest"], SILENT
    )
    assert graph_of(later)["ppo"].settings.chat_template_kwargs == {}


def test_graph_template_variables_can_be_set_on_the_command_line(tmp_path):
    recipe = Recipe.load("quickstart", ["policy.chat_template_kwargs.enable_thinking=false"])
    graph = build_graph(recipe, tmp_path)
    assert graph["dpo"].settings.chat_template_kwargs == SILENT
    assert len(graph.models) == 2


def test_graph_a_stage_cannot_have_template_variables_of_its_own():
    for stage in ("dpo", "responses"):
        assert problems({stage: {"chat_template_kwargs": SILENT}}) == (
            f"stages.{stage}.chat_template_kwargs: set once for all stages of a model; write it "
            "under models, as {model: …, chat_template_kwargs: …}, and remove it here"
        )


def test_graph_template_variables_of_a_judge_are_refused():
    models = {"policy": "org/policy", "judge": THINKER["policy"] | {"model": "org/judge"}}
    assert problems(models=models) == (
        "models.judge.chat_template_kwargs: has no effect on a judge; remove it"
    )


def test_graph_a_variable_that_every_template_has_already_is_refused_with_its_place():
    with pytest.raises(RecipeError, match=r"chat_template_kwargs: messages is given to the templ"):
        Recipe.load("quickstart", ["policy.chat_template_kwargs.messages=x"])
