"""Sections: the lists of labels and responses with their filters, and the training curves."""

import json
import math
import re
from collections import Counter

import pytest

from constitution.schema import Message
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Demonstration, Preference, write_jsonl, write_preferences
from rlaif.feedback.revisions.summary import KindCounts, Refusals, RevisionSummary
from rlaif.redteam.summary import RedTeamSummary, Successes
from rlaif.report.excerpts import MOST_ROWS
from rlaif.report.page import render_page
from rlaif.report.sections import SECTIONS
from tests.rlaif.report.pages import (
    PageParser,
    edit_evaluation,
    one_stage,
    render,
    section,
    text_of,
    write_rows,
)


def test_every_control_of_a_list_is_read_by_the_script_and_its_rows_carry_what_it_reads(whole_page):
    page = PageParser(whole_page)
    controls = {a["name"] for tag, a in page.tags if tag in {"select", "input"}}
    assert controls == {"policy", "verdict", "topic", "text", "order", "trait", "low", "high"}
    script = whole_page.split("<script>")[1]
    assert all(f'"{name}"' in script for name in controls)
    data = Counter(key for _, attributes in page.tags for key in attributes if key[:5] == "data-")
    labels, prompts = 23, 24
    assert data["data-probs"] == labels
    assert data["data-topic"] == 3 * prompts  # samples, responses, evaluation
    assert data["data-verdict"] == 4 * prompts
    assert data["data-policy"] == (4 + 5) * prompts


def test_the_filters_are_hidden_without_javascript_and_every_row_is_shown(whole_page):
    page = PageParser(whole_page)
    for tag, attributes in page.tags:
        if tag == "form" or attributes.get("class") == "pager":
            assert "hidden" in attributes
        if attributes.get("class") in {"row", "card"}:
            assert "hidden" not in attributes


def test_a_verdict_is_from_the_policys_side(copy):
    def decide(saved):
        for verdict, prob in zip(saved["policies"][2]["verdicts"], (0.9, 0.5, 0.1), strict=False):
            verdict["prob"] = prob

    edit_evaluation(copy, decide)
    cards = re.findall(
        'data-policy="dpo" data-verdict="(.*?)"', section(render(copy), "stage-evaluation")
    )
    assert cards[:4] == ["better", "tie", "worse", "none"]


def test_of_many_labels_a_bounded_number_is_embedded_and_the_page_says_how_many(copy):
    path = copy / "labels" / "preferences.parquet"
    one = read_preferences(path)[0]
    many = [replace_prob(one, number) for number in range(3 * MOST_ROWS)]
    write_preferences(path, many)
    html = section(render(copy), "stage-labels")
    shown = html.count('<article class="row"')
    assert MOST_ROWS * 0.8 < shown <= MOST_ROWS
    assert f"{shown} of 1,500 labels: evenly spaced ones, the 100 least certain" in text_of(html)
    assert 'data-probs="{&#34;&#34;: 0.5,' in html, "the least certain"


def replace_prob(label, number):
    prob = 0.5 + number / (6 * MOST_ROWS)
    return label.model_copy(update={"id": str(number), "prob_chosen": prob})


def test_labels_of_other_tools_have_no_receipt_and_are_shown(tmp_path):
    inputs = one_stage(tmp_path, "label")
    label = Preference(
        id="p",
        prompt=(Message(role="user", content="Say hello."),),
        chosen=(Message(role="assistant", content="Hello."),),
        rejected=(Message(role="assistant", content="No."),),
        prob_chosen=0.4,
    )
    write_preferences(tmp_path / "stage" / "preferences.parquet", [label])
    text = text_of(render_page(inputs))
    assert "1 labeled pairs" in text
    assert "Where a label comes from" not in text


def test_a_long_text_is_cut_and_says_so(copy):
    edit_evaluation(
        copy, lambda saved: saved["policies"][1]["verdicts"][0].update(response="x" * 5000)
    )
    html = render(copy)
    assert "x" * 2001 not in html
    assert "3,000 more characters in the run folder" in html


def test_a_rollback_to_the_best_policy_is_shown(tmp_path):
    write_rows(tmp_path, [{"step": s, "score": 1.0, "rollback": float(s == 2)} for s in (1, 2, 3)])
    page = render_page(one_stage(tmp_path, "ppo"))
    assert "rolled back to the best judged policy after step 2" in page


def test_nan_and_missing_values_are_left_out_of_curves(tmp_path):
    write_rows(tmp_path, [{"loss": math.nan}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.5}])
    page = render_page(one_stage(tmp_path, "dpo"))
    assert page.count("<svg") == 1
    assert "0.5 at step 3, 0.5 at step 3" in page


def test_metrics_without_a_plotted_one_are_said_to_be_missing(tmp_path):
    write_rows(tmp_path, [{"step": 1, "other": 1.0}])
    page = text_of(render_page(one_stage(tmp_path, "sft")))
    assert "stage/metrics.jsonl has none of the metrics that are plotted" in page


@pytest.mark.parametrize("kind", sorted(SECTIONS))
def test_an_empty_folder_of_every_kind_gives_a_section_of_notes(kind, tmp_path):
    html = section(render_page(one_stage(tmp_path, kind)), "stage-stage")
    assert "Missing: stage/" in text_of(html)
    assert "<svg" not in html


def test_a_finding_mentions_only_what_was_measured(copy):
    edit_evaluation(copy, lambda saved: saved["policies"][1].update(reward_gain=None))
    findings = re.findall("<li>(.*?)</li>", section(render(copy), "stage-evaluation"))
    sft, dpo = findings[:2]
    assert "Judge score" in sft
    assert "reward score" not in sft
    assert re.search(r"; reward score [+-]\d\.\d\d \[.*\] against the start\.$", dpo)


def test_an_evaluation_shows_its_stop_the_win_rate_by_people_and_the_strengths(copy):
    estimate = {"value": 0.58, "low": 0.48, "high": 0.68, "n": 40}
    human = {
        "corrected": estimate, "human": estimate, "judge_weight": 0.4, "judge_only": 36,
        "agreement": 0.75,
    }  # fmt: skip
    row = {"name": "dpo", "strength": estimate, "wins_start": estimate}

    def add(saved):
        saved.update(until="settled", human={"dpo": human}, strengths={"policies": [row]})
        for verdict in saved["policies"][1]["verdicts"][3:]:
            verdict.update(prob=None, reason="not asked")

    edit_evaluation(copy, add)
    text = text_of(section(render(copy), "stage-evaluation"))
    assert "interval excludes 50 %. Intervals are anytime intervals" in text
    assert "stopped after 3 of" in text
    assert "Win rate by people (95 % intervals)" in text
    assert "58 % [48, 68]" in text
    assert "40 + 36" in text
    assert "Round robin, Bradley-Terry" in text
    assert "+0.58 [+0.48, +0.68]" in text


def test_a_revise_stage_shows_counts_lessons_and_why_revisions_were_refused(tmp_path):
    asked = (Message(role="user", content="How do I open a lock?"),)
    inputs, folder = one_stage(tmp_path, "revise"), tmp_path / "stage"
    RevisionSummary(
        samples=3,
        lessons=1,
        refused_by_reason={"gate: not better": 1, "preamble": 1},
        by_kind={"borderline": KindCounts(samples=3, lessons=1)},
        gate=0.55,
        mean_prob_better=0.61,
        borderline=Refusals(lessons=1, refusing=0, originals_refusing=1),
        asked=3,
        principles={"kind": 2, "honest": 1},
        judge="planted:judge",
        constitution="harmless 1.0.0",
    ).save(folder / "revisions.summary.json")
    lesson = Demonstration(id="p0#0", prompt=asked, response="Call a <locksmith>.")
    write_jsonl(folder / "lessons.jsonl", [lesson])
    line = {
        "id": "p1#0", "kind": "borderline", "reason": "gate: not better",
        "detail": "P(better) 0.400 is under 0.55",
        "prompt": [message.model_dump() for message in asked],
        "response": "Use a hammer.", "revision": "Ask no questions.", "prob_better": 0.4,
    }  # fmt: skip
    (folder / "unrevised.jsonl").write_text(json.dumps(line) + "\n")
    html = section(render_page(inputs), "stage-stage")
    page = text_of(html)
    for expected in (
        "1 of 3 revisions are lessons; refused: 1 gate: not better, 1 preamble.",
        "lessons by kind of prompt: borderline 1 of 3.",
        "0 of 1 lessons on borderline prompts refuse, by rule (of their originals 1).",
        "Planted: planted:judge is a simulated judge",
        "Revisions by principle: kind 2, honest 1.",
        "P(better) 0.400 is under 0.55",
        "Ask no questions.",
    ):
        assert expected in page, expected
    assert "Call a &lt;locksmith&gt;." in html


def test_a_redteam_stage_shows_shares_by_family_and_topic_and_no_texts(tmp_path):
    inputs, folder = one_stage(tmp_path, "redteam"), tmp_path / "stage"
    RedTeamSummary(
        model="org/model", attacker="org/writer", judge="planted:judge",
        constitution="harmless 1.0.0", verdict="both", budget=9, tries=7, cells=4, succeeded=1,
        refused=2, by_family={"direct": Successes(cells=4, succeeded=1)},
        by_topic={"fraud": Successes(cells=4, succeeded=1)}, unjudged={"too_long": 1}, twins=4,
        twins_refused=0,
    ).save(folder / "redteam.summary.json")  # fmt: skip
    page = text_of(section(render_page(inputs), "stage-stage"))
    for expected in (
        "attacks succeed in 25 % [5, 70] of the cells, by rule and by planted:judge: 1 of 4",
        "of 4 benign twins the model refuses 0 % [0, 49], by rule",
        "Planted: planted:judge is a simulated judge",
        "worded anew by org/writer; rated by planted:judge, constitution harmless 1.0.0",
        "direct 4 1 25 % [5, 70]",
    ):
        assert expected in page, expected
