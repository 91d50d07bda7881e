"""The page and the tables of a comparison, from a result made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from rlaif.comparing.page import render_page, write_page
from rlaif.comparing.result import ArmResult, HeadToHead, MethodComparison, TrainedSeed
from rlaif.comparing.tables import comparison_tables, sentences
from rlaif.evaluation.intervals import Estimate
from rlaif.report.figures import scatter
from tests.rlaif.report.pages import text_of


def estimate(value, half=0.1):
    return Estimate(value, value - half, value + half, 50)


def arm(name, value, *seconds):
    trainings = tuple(
        TrainedSeed(f"{name}-{seed}", seed, 1 if taken > 50 else 9, taken, 1e4, 1.5, taken / 50)
        for seed, taken in enumerate(seconds)
    )
    policies = tuple(training.policy for training in trainings) or (f"{name}-0",)
    rates = {"judge-1": estimate(value), "judge-2": estimate(value - 0.05)}
    return ArmResult(
        name, policies, rates, length_controlled=estimate(value), kl=estimate(2.0), distinct_2=0.5,
        refusals={"harmful": estimate(0.4)}, text_nll=3.25, text_change=estimate(0.02, 0.01),
        by_seed=tuple(estimate(value) for _ in policies), trainings=trainings,
    )  # fmt: skip


FOUND = MethodComparison(
    facts={"recipe": "mine<b>", "policy": "org/p"},
    arms=(ArmResult("start", ("start",)), arm("dpo", 0.7, 20.0, 30.0), arm("ppo", 0.6, 55.0, 60.0)),
    head_to_head=(HeadToHead("dpo", "ppo", estimate(0.65), 2),),
    prompts=50, seeds=2, budget={"seconds": 50.0, "reads": 400.0}, left_out={"sft-0": "diverged"},
    labels=40, over_budget=8, label_reads=320, evaluation_reads=1000,
    judged_by=("Judged by judge-1.",), last_line="dpo beats ppo at this n.",
)  # fmt: skip


def test_page_stands_alone_and_shows_every_table_and_sentence(tmp_path):
    page = write_page(FOUND, tmp_path / "page.html").read_text()
    text = text_of(page)
    for table in comparison_tables(FOUND):
        assert table.title in text
        for row in table.rows:
            assert all(cell in text for cell in row)
    assert all(sentence in text for sentence in [*sentences(FOUND), FOUND.last_line])
    assert "mine<b>" not in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_page_warns_of_planted_judges_failed_trainings_and_budgets_spent_at_once():
    warned = re.findall(r'<p class="warning">(.*?)</p>', render_page(FOUND))
    assert warned == [
        "The budget was spent in the first step of ppo-0, ppo-1: too small to compare it.",
        "Left out: sft-0, whose training failed: diverged.",
    ]
    planted = render_page(replace(FOUND, planted=True))
    assert '<p class="warning">Planted: a simulated judge decides by rules' in planted


def test_sentences_say_what_was_allowed_and_what_it_ended():
    said = sentences(FOUND)
    assert "All arms share 40 labeled pairs from 320 reads; the budget left out 8 pairs." in said
    assert "Budget: 50 seconds a training, 400 reads for the labels; it ended ppo-0, ppo-1." in said


def test_costs_are_means_of_the_seeds_and_the_highest_memory():
    (costs,) = [t for t in comparison_tables(FOUND) if t.title.startswith("What it took")]
    cells = dict(zip(costs.headings, costs.rows[0], strict=True))
    assert (cells["seconds"], cells["tokens"], cells["peak GiB"]) == ("25", "10,000", "1.50")
    assert (cells["trainings"], cells["budget spent"]) == ("2", "50 %")


def test_a_comparison_is_read_as_it_was_saved(tmp_path):
    FOUND.save(tmp_path / "comparison.json")
    assert MethodComparison.load(tmp_path / "comparison.json") == FOUND


def test_names_in_a_scatter_plot_do_not_lie_on_each_other():
    rows = [(f"arm {n}", 10.0 + n / 100, estimate(0.5 + n / 1000)) for n in range(6)]
    rows += [("far right", 30.0, estimate(0.6))]
    drawn = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)', str(
        scatter(rows, "seconds")))  # fmt: skip
    places = {text: (float(x), float(y), anchor) for x, y, anchor, text in drawn}
    ys = sorted(places[f"arm {n}"][1] for n in range(6))
    assert min(b - a for a, b in pairwise(ys)) >= 13.9
    assert places["far right"][2] == "end"
    assert places["arm 0"][2] == "start"
