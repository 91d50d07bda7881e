"""An evaluate stage until settled, with human verdicts, and all with all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rlaif.data.records import Sample, write_jsonl
from rlaif.evaluation.policies import EvaluationResult
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.recipe import RecipeError
from tests.support.training.recipes import a_recipe


@pytest.fixture
def evaluated(work, monkeypatch):
    """evaluated(**options) → the result of the stage with these options."""
    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [0.0 for _ in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)
    monkeypatch.setattr(EvaluateStage, "_kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)

    def run(**options):
        work.prepare({"evaluation": options}, heldout_prompts=24).train()
        respond, evaluation = work.graph["responses"], work.graph["evaluation"]
        for stage in (respond, evaluation):
            stage.folder.mkdir(exist_ok=True)
        prompts = work.context.prompts("heldout")
        for words, name in enumerate(respond.policies, start=2):
            answers = [
                Sample(prompt=p, index=0, response="word " * words, tokens=5, complete=True, seed=0)
                for p in prompts
            ]
            write_jsonl(respond.responses(name), answers)
        evaluation.inputs(work.context)
        evaluation.run(work.context)
        return EvaluationResult.load(evaluation.outputs.paths[0])

    return run


def test_a_stage_stops_when_win_rates_are_settled(evaluated):
    result = evaluated(until="settled")
    assert result.until == "settled"
    assert result.policies[-1].win_rate.n == 16  # the scripted judge prefers the longer
    assert result.policies[-1].win_rate.low > 0.5


def test_a_stage_compares_all_with_all(evaluated):
    result = evaluated(round_robin=True)
    assert {row.name for row in result.strengths.policies} == {"start", "sft", "dpo", "ppo", "rest"}
    order = [row.name for row in result.strengths.policies]
    assert order == ["rest", "ppo", "dpo", "sft", "start"]


def test_a_stage_corrects_win_rates_by_people(evaluated, work, tmp_path):
    work.prepare(heldout_prompts=24)
    rows = [
        {"policy": "dpo", "prompt": prompt.id, "verdict": "worse" if n % 2 else "better"}
        for n, prompt in enumerate(work.context.prompts("heldout")[:8])
    ]
    file = tmp_path / "human.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = evaluated(human=str(file))
    assert result.human["dpo"].human.value == 0.5
    assert result.human["dpo"].judge_only == 16
    first = work.graph["evaluation"].inputs(work.context)["human"]
    assert first.paths == (file,)


def test_verdicts_on_an_unknown_policy_are_refused_before_anything_runs(tmp_path):
    file = tmp_path / "human.jsonl"
    file.write_text('{"policy": "dop", "prompt": "p", "verdict": "tie"}\n')
    recipe = a_recipe({"evaluation": {"human": str(file)}})
    with pytest.raises(
        RecipeError, match=r"evaluation\.human: .*unknown policy 'dop'; expected one"
    ):
        build_graph(recipe, tmp_path)
    file.write_text("")
    with pytest.raises(RecipeError, match=r"human.jsonl: no records in it; give at least one"):
        build_graph(recipe, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "soon"}, r"invalid until: 'soon'"),
        ({"until": 0.2, "round_robin": True}, r"until and round_robin exclude each other"),
        ({"until": "settled", "human": "h.jsonl"}, r"until and human exclude each other"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_the_recipe(options, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        build_graph(a_recipe({"evaluation": options}), tmp_path)
