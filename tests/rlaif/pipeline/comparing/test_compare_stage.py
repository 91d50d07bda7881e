"""The stage that compares methods: on responses made by hand, judged by a planted judge."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from constitution import Constitution
from judge_service.engines.planted import PlantedEngine
from judge_service.planted.file import PlantedJudge
from rlaif.comparing import text_nll
from rlaif.comparing.result import MethodComparison
from rlaif.comparing.text_nll import ParagraphNLL
from rlaif.data.records import Sample, write_jsonl
from rlaif.models import catalog
from rlaif.pipeline.comparing.budget import Budget
from rlaif.pipeline.comparing.plan import ComparisonRequest, comparison_plan
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.kinds.comparing.best_of_n import best_of, kl_bound
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.recipe import RecipeError
from tests.rlaif.report.pages import text_of
from tests.support.feedback.local_judge import LocalJudge
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.training.recipes import a_recipe

GOOD, PLAIN, BAD = "Wait 5 minutes. Take care!", "Try it, then.", "Try. Try again. Then stop."
SAYS = {"start": (PLAIN,), "sft-0": (PLAIN, BAD), "sft-1": (BAD, PLAIN), "dpo-0": (GOOD,),
        "dpo-1": (GOOD, PLAIN), "best_of_n-0": (GOOD,), "best_of_n-1": (PLAIN, GOOD)}  # fmt: skip


def samples(prompts, texts):
    return [
        Sample(prompt=p, index=0, response=texts[i % len(texts)], tokens=5, complete=True, seed=0)
        for i, p in enumerate(prompts)
    ]


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """(context, graph) of a comparison whose last two stages ran; the others are made by hand."""
    models = {"policy": "org/policy", "judge": f"planted:{judge_file(tmp_path, flip=0.0)}"}
    recipe = a_recipe(models=models, constitution=str(CONSTITUTION), heldout_prompts=20)
    budget = Budget.parse(["seconds=30", "tokens=1000", "reads=100"])
    request = ComparisonRequest(("sft", "dpo", "best_of_n"), 2, budget)
    recipe = comparison_plan(recipe, request).recipe
    graph = build_graph(recipe, tmp_path / "run")
    context = RunContext(recipe, tmp_path / "run")
    engine = PlantedEngine(PlantedJudge.load(models["judge"]))
    asyncio.run(engine.start())

    @contextmanager
    def judge_client(self, judge, constitution, log):
        yield LocalJudge(Constitution.load(CONSTITUTION), engine=engine)

    def nll(model, adapter=None):
        forgotten = 0.1 if adapter is not None and adapter.name.startswith("dpo") else 0.0
        return [ParagraphNLL(10 * (3.0 + forgotten), 10), ParagraphNLL(20 * (4.0 + forgotten), 20)]

    monkeypatch.setattr(RunContext, "judge_client", judge_client)
    monkeypatch.setattr(catalog, "resolve", lambda name: name)
    monkeypatch.setattr(text_nll, "text_nll", nll)
    monkeypatch.setattr(EvaluateStage, "_kl", lambda self, name, samples: None)
    monkeypatch.setattr("rlaif.generation.offline.tokens_per_second", lambda path: 1.0)
    scorer = SimpleNamespace(overall_scores=lambda prompts, texts: [0.0 for _ in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda model, folder: scorer)

    drawn = graph["samples"].outputs.paths[0]
    drawn.parent.mkdir(parents=True)
    write_jsonl(drawn, [s.model_copy(update={"index": i}) for i, text in enumerate((GOOD, BAD))
                        for s in samples(context.prompts("train"), (text,))])  # fmt: skip
    graph["responses"].folder.mkdir()
    for name in graph["responses"].policies:
        own = samples(context.prompts("heldout"), SAYS[name])
        write_jsonl(graph["responses"].responses(name), own)
    for place, name in enumerate(("reward", "sft-0", "sft-1", "dpo-0", "dpo-1")):
        graph[name].folder.mkdir()
        lines = [
            {"step": step, "run_seconds": 2.0 * step * (place + 1), "run_tokens": 400.0 * step,
             "memory_gib": 1.5 - step / 10}
            for step in (1, 2, 3)
        ]  # fmt: skip
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (graph[name].folder / "metrics.jsonl").write_text(text)
    for name in ("best_of_n-0", "labels", "evaluation", "comparison"):
        graph[name].folder.mkdir()
        graph[name].run(context)
    return context, graph


def test_comparison_has_every_arm_with_what_was_measured(compared):
    _, graph = compared
    found = MethodComparison.load(graph["comparison"].folder / "comparison.json")
    start, sft, dpo, best = found.arms
    assert (start.name, start.by_judge, start.trainings) == ("start", {}, ())
    assert dpo.policies == ("dpo-0", "dpo-1")
    # dpo-0 wins all 20; dpo-1 half, and the other half are ties
    assert dpo.win_rate.value == pytest.approx((1 + 0.75) / 2)
    assert best.win_rate.value == pytest.approx((1 + 0.75) / 2)
    assert sft.win_rate.value == pytest.approx(0.25)
    assert dpo.win_rate.low < dpo.win_rate.value < dpo.win_rate.high
    assert dpo.gold_gain.value > 0 > sft.gold_gain.value
    assert dpo.longer.value == pytest.approx((1 + 0.75) / 2)
    assert dpo.text_change.value == pytest.approx(0.1)
    assert sft.text_change.value == pytest.approx(0.0)
    assert start.text_nll == pytest.approx(3.5)
    assert best.text_nll is None
    assert best.kl_most == pytest.approx(kl_bound(8))
    assert (found.prompts, found.seeds, found.planted) == (20, 2, True)


def test_comparison_counts_time_tokens_memory_reads_and_what_budgets_ended(compared):
    _, graph = compared
    found = MethodComparison.load(graph["comparison"].folder / "comparison.json")
    sft, dpo, best = found.trained
    assert [t.seconds for t in sft.trainings] == [12.0, 18.0]
    assert [t.tokens for t in dpo.trainings] == [1200.0, 1200.0]
    assert all(t.ended_by_budget and t.steps == 3 for t in dpo.trainings)
    assert dpo.trainings[0].memory_gib == pytest.approx(1.4)  # the highest of its steps
    assert (sft.seconds, best.seconds) == (15.0, 6.0)  # best-of-n needs the reward model alone
    summary = json.loads((graph["labels"].folder / "labels.summary.json").read_text())
    principles = 4
    pairs = 100 // (2 * principles)
    assert summary["judged"] + summary["unjudged"] == found.labels == pairs
    assert summary["over_budget"] == found.over_budget == 30 - pairs
    assert found.label_reads == 2 * principles * pairs
    assert found.evaluation_reads > 0


def test_arms_that_matter_meet_head_to_head_seed_by_seed(compared):
    _, graph = compared
    found = MethodComparison.load(graph["comparison"].folder / "comparison.json")
    met = {frozenset((p.first, p.second)): p for p in found.head_to_head}
    pair = met[frozenset(("dpo", "best_of_n"))]
    # seed 0: the same texts, all ties; seed 1: each says GOOD where the other is plain
    assert pair.win_rate.value == pytest.approx(0.5)
    assert pair.winner == ""
    assert found.last_line.startswith("Planted: dpo and best_of_n cannot be told apart at this n")
    assert {row.name for row in found.strengths.arms} == {"sft", "dpo", "best_of_n"}


def test_terminal_and_page_say_planted_who_judged_and_the_last_line(compared):
    context, graph = compared
    console = Console(file=StringIO(), width=300)
    graph["comparison"].show(context, console)
    page = (context.folder / "comparison.html").read_text()
    for said in (console.file.getvalue(), text_of(page)):
        assert "Planted: simulated by rules, no model" in said
        assert "The judge that evaluates also labeled the training data." in said
        assert "Floor of a win rate: 50 % by chance." in said
        assert "Planted: dpo and best_of_n cannot be told apart at this n (20 prompts" in said
        assert "12 labeled pairs from 96 reads; the budget left out 18 pairs" in said
        assert "it ended sft-0, sft-1, dpo-0, dpo-1" in said
        assert "at most 1.20" in said
    assert page.count("<svg") == 2
    assert "http:" not in page
    assert "https:" not in page


def test_policies_that_are_no_seeds_of_the_evaluation_are_refused(tmp_path):
    recipe = comparison_plan(a_recipe(), ComparisonRequest(("dpo",), 2)).recipe
    recipe.stages["comparison"]["arms"] = {"dpo": ["dpo-0", "dpo-7"]}
    with pytest.raises(RecipeError, match=r"comparison\.arms: unknown policy 'dpo-7'.*dpo-0, dpo-"):
        build_graph(recipe, tmp_path)
    recipe.stages["comparison"]["arms"] = {"dpo": ["dpo-0"], "sft": ["dpo-0"]}
    with pytest.raises(RecipeError, match="dpo-0 is named twice"):
        build_graph(recipe, tmp_path)


def test_best_of_keeps_the_best_of_every_n_and_counts_anew():
    texts = [Sample(prompt={"id": id, "messages": [{"role": "user", "content": id}]}, index=i,
                    response=f"{id}{i}", tokens=1, complete=True, seed=0)
             for id in "ab" for i in range(4)]  # fmt: skip
    scores = [0.1, 0.3, None, -2.0, None, None, 5.0, 5.0]
    chosen = best_of(texts, scores, 2)
    assert [(s.response, s.index) for s in chosen] == [("a1", 0), ("a3", 1), ("b0", 0), ("b2", 1)]
    assert kl_bound(2) == pytest.approx(0.1931, abs=1e-4)
