"""What stands beside every win rate: who judged, its worth on gold, and the floor."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.evaluation.judges.worth import JudgeWorth
from rlaif.evaluation.policies import EvaluationResult
from rlaif.models.catalog import KNOWN
from rlaif.report.judged_by import LABELED_TOO, judged_by
from tests.rlaif.report.pages import edit_evaluation, render, section, text_of

ROOT = Path(__file__).resolve().parents[3]
JUDGES = ("scripted", *KNOWN)
WIN_RATE = re.compile(r"win rate|wins? on \d|won \d", re.IGNORECASE)
WORTH = JudgeWorth(
    judge="scripted", gold="g.jsonl", n=36, accuracy=0.75, low=0.59, high=0.86, longer=0.69
)


def missing_words(text: str) -> list[str]:
    """What a text with a win rate leaves out."""
    if not (WIN_RATE.search(text) and re.search(r"\d+ %", text.replace("\N{NO-BREAK SPACE}", " "))):
        return []
    found = {
        "who judged": any(judge in text.lower() for judge in JUDGES),
        "the floor": "floor" in text.lower(),
        "worth on gold": re.search(r"\bon gold\b", text, re.IGNORECASE) is not None,
    }
    return [name for name, there in found.items() if not there]


@pytest.fixture
def result(run) -> EvaluationResult:
    return EvaluationResult.load(run / "evaluation" / "evaluation.json")


def with_judge(result: EvaluationResult, **known) -> EvaluationResult:
    return replace(result, judges=(replace(result.judges[0], **known),))


# ── nowhere a win rate alone ─────────────────────────────────────────────────────────────────


def test_the_words_are_looked_for_and_missed():
    assert missing_words("dpo wins on 66 % of prompts") == [
        "who judged", "the floor", "worth on gold",
    ]  # fmt: skip
    assert missing_words("Win rate of dpo: 66 % by scripted. Floor 50 %; not known on gold.") == []
    assert missing_words("nothing was compared") == []


@pytest.mark.parametrize("pages", ["whole_page", "graph_page"])
def test_no_win_rate_of_the_report_stands_without_judge_floor_and_worth(pages, request):
    html = request.getfixturevalue(pages)
    glance = html.split('<dl class="facts">')[0].split('<div class="glance">')[1]
    parts = [glance, *html.split("<section>")[1:]]
    reading = section(html, "reading")  # explains what a win rate is, and shows none
    shown = [text_of(part) for part in parts if part != reading and WIN_RATE.search(text_of(part))]
    assert len(shown) >= 2
    assert [missing_words(text) for text in shown] == [[]] * len(shown)


@pytest.mark.parametrize("page", ["README.md", "docs/getting_started.md"])
def test_no_win_rate_of_a_page_stands_without_judge_floor_and_worth(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    shown = {part.splitlines()[0]: missing_words(part) for part in parts if WIN_RATE.search(part)}
    assert any(re.search(r"\d+ %", part) for part in parts)
    assert {heading: missing for heading, missing in shown.items() if missing} == {}


def test_an_evaluation_of_before_says_that_its_judge_is_not_known_on_gold(copy):
    def older(saved):
        for key in ("judges", "agreement", "evaluators"):
            saved.pop(key, None)

    edit_evaluation(copy, older)
    text = text_of(section(render(copy), "stage-evaluation"))
    assert "Which judge decided is not recorded, so it is not known on gold." in text
    assert "Floor of a win rate: 50 % by chance" in text


# ── the words ────────────────────────────────────────────────────────────────────────────────


def test_the_judge_that_also_labeled_is_pointed_out_in_a_plain_line(result):
    (line, *_) = judged_by(with_judge(result, also_labeled=True))
    assert f"Judged by scripted, constitution hhh 1.0.0. {LABELED_TOO}" in line
    (line, *_) = judged_by(with_judge(result, also_labeled=False))
    assert "It did not label the training data." in line
    (line, *_) = judged_by(with_judge(result, also_labeled=None))
    assert "Whether it also labeled the training data is not known." in line


@pytest.mark.parametrize(
    ("change", "standing"),
    [
        ({}, "above chance, not above the longer"),
        ({"low": 0.5}, "not above chance"),
        ({"low": 0.7}, "above both"),
    ],
)
def test_the_worth_on_gold_is_said_with_its_interval_and_its_floor(result, change, standing):
    (line, *_) = judged_by(with_judge(result, worth=(WORTH.model_copy(update=change),)))
    low = round(100 * change.get("low", 0.59))
    assert (
        f"On gold, scripted is right on 75 % [{low}, 86] of 36 pairs of g.jsonl (naming the "
        f"longer: 69 %, {standing})."
    ) in line


def test_a_judge_without_figures_is_not_known_on_gold(result):
    (line, *_) = judged_by(with_judge(result, worth=()))
    assert "scripted is not known on gold: how often it is right has not been measured." in line


def test_a_planted_judge_is_planted_in_every_part_that_shows_its_rates(copy):
    def planted(saved):
        for evaluator in (saved["evaluators"][0], saved["judges"][0]["evaluator"]):
            evaluator["name"] = "planted:noisy"

    edit_evaluation(copy, planted)
    html = render(copy)
    glance = html.split('<dl class="facts">')[0].split('<div class="glance">')[1]
    for part in (glance, section(html, "stage-evaluation")):
        assert WIN_RATE.search(text_of(part))
        assert "Planted: simulated by rules, no model" in text_of(part)


def test_pairs_that_could_not_be_judged_are_counted_by_their_reason(result):
    def unjudged(reasons):
        first, second, *_ = result.judges[0].policies
        policies = (replace(first, unjudged=reasons), replace(second, unjudged={}))
        return judged_by(replace(result, judges=(replace(result.judges[0], policies=policies),)))

    failed = "Pairs that scripted could not judge: sft 3 engine_failed, 1 too_long."
    assert failed in unjudged({"engine_failed": 3, "too_long": 1})
    asked = unjudged({"not asked": 7})
    assert not [line for line in asked if line.startswith("Pairs that")]


def test_the_floor_is_chance_and_what_naming_the_longer_gives(result):
    floor = judged_by(result)[1]
    assert re.match(
        r"Floor of a win rate: 50 % by chance; naming the longer response gives sft \d+ % \[", floor
    )


def test_several_judges_have_a_line_each_and_their_agreement(result):
    from rlaif.evaluation.judges.agreement import agreements

    other = replace(result.judges[0].evaluator, name="other", weights_sha256="9" * 64)
    judges = (
        replace(result.judges[0], also_labeled=True),
        replace(result.judges[0], evaluator=other),
    )
    lines = judged_by(replace(result, judges=judges, agreement=agreements(judges)))
    assert "scripted also labeled the training data." in lines[0]
    assert lines[1].startswith("Judged by other")
    assert re.match(
        r"scripted and other name the same winner in 100 % \[\d+, 100\] of \d+ pairs "
        r"\(\d+ % by chance, kappa 1\.00\)\.",
        lines[3],
    )
