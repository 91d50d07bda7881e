"""What respond and evaluate hand to their work, and what they say. Samplers are stand-ins here;
test_declared_inputs.py runs the real ones."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from constitution import Constitution
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Sample, read_jsonl, write_jsonl
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.judges.column import Labelers
from rlaif.evaluation.judges.worth import WorthError
from rlaif.evaluation.policies import EvaluationResult
from rlaif.evaluation.rules.facts import accepted_answers
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.kinds.evaluating import labelers_of_stages
from rlaif.pipeline.kinds.respond import START
from rlaif.pipeline.recipe import RecipeError
from rlaif.report.beyond_win_rates import further_sentences
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge
from tests.support.training.workshop import FROM_SFT, POLICY


def test_respond_samples_each_policy_over_what_it_began_from(work, monkeypatch):
    work.prepare(FROM_SFT).train()
    (work.folder / "dpo" / "config.json").write_text("{}")  # as full fine-tuning leaves it
    asked = []
    monkeypatch.setattr(
        "rlaif.generation.offline.sample",
        lambda model, prompts, out, config: asked.append((out.stem, model)),
    )
    work.merged.clear()
    responses = work.graph["responses"].folder
    responses.mkdir()
    work.graph["responses"].run(work.context)
    assert asked == [
        ("start", POLICY),
        ("sft", str(responses / "sft-merged")),
        ("dpo", str(work.folder / "dpo")),
        ("ppo", str(responses / "ppo-merged")),
        ("rest", str(responses / "rest-merged")),
    ]
    from_sft = str(work.folder / "sft-model")
    assert work.merged == [(POLICY, "sft"), (from_sft, "ppo"), (from_sft, "rest")]
    assert list(responses.iterdir()) == [], "merged models are not kept"


def test_respond_asks_each_policy_the_facts_that_ship_greedily_and_once(work, monkeypatch):
    stages = FROM_SFT | {"responses": {"facts": True, "n": 2, "temperature": 0.7, "top_p": 0.9}}
    work.prepare(stages).train()
    asked = []
    monkeypatch.setattr(
        "rlaif.generation.offline.sample",
        lambda model, prompts, out, config: asked.append((out.name, len(prompts), config)),
    )
    respond = work.graph["responses"]
    respond.folder.mkdir()
    respond.run(work.context)
    assert respond.does(work.context).endswith(
        "held-out prompts, and questions of common knowledge"
    )
    names = [name for name in respond.policies for _ in range(2)]
    assert [name for name, _, _ in asked[::2]] == [f"{name}.jsonl" for name in names[::2]]
    assert [name for name, _, _ in asked[1::2]] == [f"{name}.facts.jsonl" for name in names[::2]]
    assert {count for _, count, _ in asked[1::2]} == {50}
    for (_, _, plain), (_, _, greedy) in zip(asked[::2], asked[1::2], strict=True):
        assert (plain.n, plain.temperature, plain.top_p) == (2, 0.7, 0.9)
        assert (greedy.n, greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (1, 0, 1, 32)
    written = {path.name for path in respond.outputs.paths}
    assert {f"{name}.facts.jsonl" for name in respond.policies} < written


def test_evaluate_shows_what_became_of_the_facts_and_asks_no_judge_about_them(work, sampled):
    evaluation = sampled({"responses": {"facts": True}})
    respond, facts = work.graph["responses"], load_prompts("facts")
    for name in respond.policies:
        answers = [
            Sample(
                prompt=p, index=0, tokens=3, complete=True, seed=0,
                response=accepted_answers()[p.id][0] if name == START else "I don't know.",
            )
            for p in facts
        ]  # fmt: skip
        write_jsonl(respond.facts(name), answers)
    evaluation.run(work.context)
    result = EvaluationResult.load(evaluation.outputs.paths[0])
    start, *trained = result.policies
    assert {r.rule: r.value.value for r in start.rules}["fact right"] == 1.0
    for policy in trained:
        found = {rule.rule: rule for rule in policy.rules}
        assert found["fact declined"].value.value == 1.0
        assert found["fact right"].change.value == -1.0
        assert (found["fact right"].flips.gained, found["fact right"].flips.lost) == (0, 50)
        assert not {verdict.prompt for verdict in policy.verdicts} & {p.id for p in facts}
    (line,) = (s for s in further_sentences(result) if s.startswith("dpo: facts"))
    assert "by McNemar's exact test: right +0 -50 (p = 1.8e-15), wrong +0 -0 (p = 1)" in line


def test_evaluate_kl_is_to_the_start_whatever_training_began_from(work, monkeypatch):
    work.prepare(FROM_SFT).train()
    loaded = []

    def logprobs(model, adapter, *, template_kwargs):
        assert template_kwargs == {}
        loaded.append((model, adapter))
        level = {POLICY: -2.0}.get(model, -1.0)
        return SimpleNamespace(
            reference=lambda samples: [[level]] * len(samples),
            policy=lambda samples: [[level + 0.5 * (adapter is not None)]] * len(samples),
        )

    monkeypatch.setattr("rlaif.models.sample_logprobs.response_logprobs", logprobs)
    samples = read_jsonl(work.graph["samples"].outputs.paths[0], Sample)[:2]
    evaluation = work.graph["evaluation"]
    assert evaluation._kl("sft", samples).k1.value == pytest.approx(-1.5 + 2.0)
    assert evaluation._kl("dpo", samples).k1.value == pytest.approx(-0.5 + 2.0)
    from_sft = str(work.folder / "sft-model")
    assert loaded[1:] == [(from_sft, work.folder / "dpo"), (POLICY, None)]


@pytest.fixture
def sampled(work, monkeypatch):
    """sampled(stages, **changes): a graph whose policies have answered, and its evaluation."""

    def make(stages=None, **changes):
        work.prepare(stages, **changes).train()
        respond, evaluation = work.graph["responses"], work.graph["evaluation"]
        for stage in (respond, evaluation):
            stage.folder.mkdir(exist_ok=True)
        for words, name in enumerate(respond.policies, start=2):
            answers = [
                Sample(prompt=p, index=0, response="word " * words, tokens=5, complete=True, seed=0)
                for p in work.context.prompts("heldout")
            ]
            write_jsonl(respond.responses(name), answers)
        return evaluation

    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [float(len(t)) for t in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)
    monkeypatch.setattr(EvaluateStage, "_kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)
    return make


SECOND = {"policy": "p/q", "judge": "j/k", "second": "other/judge"}


@pytest.fixture
def served(monkeypatch):
    """The judges in the order in which they were served, each with when it stopped."""
    log = []

    @contextmanager
    def judge_client(self, judge, constitution, folder):
        name = judge if isinstance(judge, str) else judge.model
        client = ScriptedJudge()
        if name != "j/k":  # the labeler of `prepare` is the scripted judge, too
            client.model = client.judged_by = replace(MODEL, name=name, weights_sha256="9" * 64)
        if isinstance(judge, str):  # a server that runs has the recipe's constitution, or refuses
            client.sha256 = Constitution.load("hhh").digest
        log.append(name)
        yield client
        log.append(f"{name} stopped after {len(client.received)}")

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    return log


def test_evaluate_by_the_second_judge_where_the_recipe_names_one(work, sampled, served):
    evaluation = sampled(models=SECOND)
    assert (
        evaluation.does(work.context) == "other/judge compares sft, dpo, ppo, rest with the start"
    )
    evaluation.run(work.context)
    (column,) = EvaluationResult.load(evaluation.outputs.paths[0]).judges
    assert (column.name, column.also_labeled) == ("other/judge", False)


def test_evaluate_by_the_labeler_is_recorded_and_said(work, sampled, served):
    evaluation = sampled(models={"policy": "p/q", "judge": "j/k"})
    evaluation.run(work.context)
    (column,) = EvaluationResult.load(evaluation.outputs.paths[0]).judges
    assert column.also_labeled is True
    console = Console(file=StringIO(), width=300)
    evaluation.show(work.context, console)
    printed = console.file.getvalue()
    assert "The judge that evaluates also labeled the training data." in printed
    assert "scripted is not known on gold" in printed
    assert "Floor of a win rate: 50 % by chance; naming the longer response gives sft" in printed


def test_evaluate_serves_one_judge_at_a_time_and_reads_nothing_twice(work, sampled, served):
    models = {"policy": "p/q", "judge": "j/k"}
    evaluation = sampled({"evaluation": {"judges": ["judge", "localhost:50051"]}}, models=models)
    evaluation.run(work.context)
    assert served == [
        "j/k", "j/k stopped after 24", "localhost:50051", "localhost:50051 stopped after 24",
    ]  # fmt: skip
    result = EvaluationResult.load(evaluation.outputs.paths[0])
    assert [column.also_labeled for column in result.judges] == [True, False]
    assert [(a.pairs, a.same_winner.value) for a in result.agreement] == [(24, 1.0)]
    served.clear()
    evaluation.run(work.context)
    assert served[1::2] == ["j/k stopped after 0", "localhost:50051 stopped after 0"]
    assert EvaluationResult.load(evaluation.outputs.paths[0]) == result


def test_evaluate_knows_only_in_part_who_labeled_where_a_judge_scored_the_training(work):
    def known() -> Labelers:
        return labelers_of_stages(work.graph["evaluation"].before)

    work.prepare(models=SECOND)
    assert known() == Labelers(frozenset({"a" * 64}), complete=True)
    work.make({"ppo": {"reward": "judge:localhost:1"}}, models=SECOND)
    assert known() == Labelers(frozenset({"a" * 64}), complete=False)


def test_evaluate_shows_what_a_file_says_of_the_judge_on_gold(work, sampled, served, tmp_path):
    figures = {
        "judge": "other/judge", "gold": "mine.jsonl", "n": 40, "accuracy": 0.8, "low": 0.65,
        "high": 0.9, "longer": 0.6,
    }  # fmt: skip
    file = tmp_path / "worth.json"
    file.write_text(json.dumps(figures))
    evaluation = sampled({"evaluation": {"judge_worth": str(file)}}, models=SECOND)
    evaluation.run(work.context)
    console = Console(file=StringIO(), width=300)
    evaluation.show(work.context, console)
    assert (
        "On gold, other/judge is right on 80 % [65, 90] of 40 pairs of mine.jsonl (naming the "
        "longer: 60 %, above both)."
    ) in console.file.getvalue()


@pytest.mark.parametrize("judges", [["second"], ["second", "localhost:50051"]])
def test_evaluate_refuses_figures_of_a_judge_that_does_not_take_part(
    judges, work, sampled, served, tmp_path
):
    figures = {
        "judge": "j/k", "gold": "mine.jsonl", "n": 40, "accuracy": 0.8, "low": 0.65, "high": 0.9,
        "longer": 0.6,
    }  # fmt: skip
    file = tmp_path / "worth.json"
    file.write_text(json.dumps(figures))
    options = {"judges": judges, "judge_worth": str(file)}
    evaluation = sampled({"evaluation": options}, models=SECOND)
    refused = evaluation.run if len(judges) > 1 else evaluation.inputs
    with pytest.raises(WorthError, match="figures of judges that do not take part: j/k"):
        refused(work.context)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"judges": ["judge", "localhost:port"]}, "invalid judge 'localhost:port'; give a model"),
        ({"judge_worth": "no.json"}, "judge_worth: no.json: cannot be read"),
        ({"judge": "second"}, "judge: unknown setting; did you mean 'judges'?"),
    ],
)
def test_evaluate_refuses_judges_and_figures_that_cannot_be(work, given, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        work.make({"evaluation": given}, models=SECOND)


def test_ppo_is_guarded_by_the_judge_that_it_names(work, served):
    stages = {"ppo": {"eval_every": 1, "eval_prompts": 2, "samples": "samples", "judge": "second"}}
    work.prepare(stages, models=SECOND).train()
    assert served == ["other/judge", "other/judge stopped after 0"]
    said = work.graph["ppo"].does(work.context)
    assert said == "training p/q against reward, guarded by other/judge"
    assert work.got["ppo"].named["judge"] is not None


def test_evaluate_has_every_policy_with_traits_kinds_rules_and_rewards(work, sampled):
    evaluation = sampled()
    evaluation.run(work.context)
    found = EvaluationResult.load(evaluation.outputs.paths[0])
    assert [policy.name for policy in found.policies] == ["start", "sft", "dpo", "ppo", "rest"]
    rest = found.policies[-1]
    assert rest.win_rate.value == 1.0
    assert rest.traits["helpful"] == Estimate(1.0, pytest.approx(0.61, abs=0.01), 1.0, 6)
    assert rest.reward_gain.value == 20.0
    assert {kind.kind for kind in rest.kinds} >= {"everyday"}
    assert {rule.rule for rule in rest.rules} >= {"tokens", "cut off", "longer than the start"}


def test_evaluate_says_on_how_much_its_table_rests(work):
    work.prepare()
    said = work.graph["evaluation"]._sizes(work.context)
    assert said == (
        "trained on 30 labels, judged on 6 held-out prompts: too few to tell policies apart"
    )


def test_evaluate_calls_twenty_prompts_no_longer_few(work):
    work.prepare(heldout_prompts=20)
    assert work.graph["evaluation"]._sizes(work.context).endswith("on 20 held-out prompts")
