"""The page shows every stage of a run, names missing parts, and escapes text from models."""

import base64
import hashlib
import re
import shutil
from collections import Counter

import pytest

from rlaif.report.inputs import ReportError, ReportInputs, StageFolder
from rlaif.report.page import anchor_of, render_page, write_page, write_report
from tests.rlaif.report.pages import (
    PageParser,
    edit_evaluation,
    one_stage,
    render,
    section,
    text_of,
)
from tests.support.made_up_run import CHAIN, GRAPH, made_up_run, write_run_file

# ── what is shown ────────────────────────────────────────────────────────────────────────────────


def test_a_complete_run_shows_every_part(whole_page):
    page = PageParser(whole_page)
    assert "Missing" not in page.text
    for expected in (
        "made-up sample run", "hhh 1.0.0", "empty_response 1", "helpful", "at equal length",
        "self-BLEU", "By rule, without a judge", "By kind of prompt", "Win rate by trait",
        "Alarms: kl over ceiling: from step 50, in 11 of 60 steps.",
        "ppo: the reward score is up by",
    ):  # fmt: skip
        assert expected in page.text
    plots = {"labels": 1, "reward": 1 + 2, "sft": 1, "dpo": 3, "ppo": 9, "rest": 6}
    for name, number in plots.items():
        assert section(whole_page, f"stage-{name}").count("<svg") == number
    assert "d" * 64 in page.text, "the receipt of a label"


@pytest.mark.parametrize("stages", [CHAIN, GRAPH])
def test_every_stage_has_a_section_in_the_order_of_the_run(stages, whole_page, graph_page):
    html = graph_page if stages is GRAPH else whole_page
    headings = [text_of(h) for h in re.findall(r"<h2 id=\"stage.*?</h2>", html)]
    expected = [
        f"{name} #" if name == kind else f"{name} {kind} stage #"
        for name, kind in stages
        if kind != "report"
    ]
    assert headings == expected


def test_every_heading_with_an_anchor_is_linked_from_itself_and_sections_from_the_contents(
    graph_page,
):
    page = PageParser(graph_page)
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert max(Counter(anchors).values()) == 1, "ids are unique"
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} == set(anchors)
    contents = graph_page.split("</nav>")[0]
    assert re.findall(r'href="#(.*?)"', contents) == [
        anchor for anchor in anchors if "--" not in anchor
    ]


def test_names_of_stages_that_look_alike_get_anchors_of_their_own():
    assert anchor_of("dpo_soft", ()) == "stage-dpo-soft"
    assert anchor_of("dpo soft", {"stage-dpo-soft"}) == "stage-dpo-soft-2"
    assert anchor_of("<ß>", ()) == "stage-unnamed"


def test_a_kind_without_a_section_is_shown_by_its_files(tmp_path):
    inputs = one_stage(tmp_path, "red-team")
    (tmp_path / "stage" / "attacks.jsonl").write_text("")
    assert "no section for stages of kind red-team. Files in stage: attacks.jsonl." in text_of(
        render_page(inputs)
    )


# ── missing parts ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "missing",
    [
        "samples/samples.jsonl",
        "labels/preferences.parquet",
        "labels/labels.summary.json",
        "labels/unjudged.jsonl",
        "reward/metrics.jsonl",
        "reward/evaluation.json",
        "sft/metrics.jsonl",
        "dpo/metrics.jsonl",
        "ppo/metrics.jsonl",
        "rest/metrics.jsonl",
        "evaluation/evaluation.json",
    ],
)
def test_a_missing_file_is_named_and_the_rest_is_shown(copy, missing):
    (copy / missing).unlink()
    html = render(copy)
    assert f"Missing: {missing}. It appears when this stage has finished." in text_of(html)
    named = {note.split(":")[-1].split(".")[0] for note in re.findall("Missing: [^<]*", html)}
    assert named <= {f" {missing.split('.')[0]}", " an evaluation"}


def test_without_responses_the_first_file_of_the_stage_is_missing(copy):
    shutil.rmtree(copy / "responses")
    (copy / "responses").mkdir()
    assert "Missing: responses/start.jsonl" in text_of(render(copy))


def test_a_stage_that_has_not_run_is_missing_as_a_whole(tmp_path):
    write_run_file(tmp_path, CHAIN)
    text = text_of(render(tmp_path))
    assert text.count("Missing: this stage has not run yet.") == len(CHAIN) - 1
    assert "Missing: neither labels nor an evaluation yet." in text
    assert "It appears when the evaluate stage has finished." in text


def test_a_run_without_an_evaluate_stage_says_so(tmp_path):
    text = text_of(render_page(one_stage(tmp_path, "dpo")))
    assert "This run has no evaluate stage." in text


def test_an_evaluation_without_the_newer_metrics_is_shown(copy):
    newer = (
        "length_controlled", "traits", "reward_gain", "self_bleu", "refusals_safe",
        "refusals_harmful", "kinds",
    )  # fmt: skip

    def age(saved):
        for policy in saved["policies"]:
            for name in newer:
                del policy[name]
            for verdict in policy["verdicts"]:
                del verdict["gap"], verdict["traits"]

    edit_evaluation(copy, age)
    assert "Win rate against the start" in text_of(section(render(copy), "stage-evaluation"))


# ── what a page must not do ──────────────────────────────────────────────────────────────────────


def test_the_page_loads_nothing_from_elsewhere(whole_page):
    page = PageParser(whole_page)
    assert not [tag for tag, _ in page.tags if tag in {"link", "img", "iframe", "object"}]
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert name != "src"
            assert name not in {"href", "xlink:href"} or value.startswith("#")
    assert not re.search(r"@import|url\(|fetch\(|https?://", whole_page)


def test_only_the_pages_own_script_may_run(whole_page):
    [script] = re.findall("<script>(.*?)</script>", whole_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall('Content-Security-Policy" content="(.*?)"', whole_page)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("kinds", [CHAIN, GRAPH])
def test_text_from_models_cannot_become_markup(kinds, tmp_path):
    evil = "<script>alert(1)</script><b title='x'>&amp;{{ 7 * 7 }}\"'"
    html = render(made_up_run(tmp_path / "run", kinds, prompts=4, extra=evil))
    page = PageParser(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [attributes for _, attributes in page.tags if "title" in attributes]
    assert evil in page.text


def test_names_of_stages_and_facts_cannot_become_markup(tmp_path):
    stage = StageFolder('"><i>x', "<i>", tmp_path)
    html = render_page(ReportInputs({"<i>": "<i>", "recipe": "<i>"}, (stage,)))
    assert "<i>" not in html


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_an_unreadable_file_is_an_error_that_names_it_its_line_and_its_stage(copy):
    (copy / "dpo" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 1')
    with pytest.raises(
        ReportError, match=r"dpo/metrics\.jsonl: cannot be read: line 2: .*run the stage dpo again"
    ):
        render(copy)


def test_a_run_folder_of_the_old_form_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "run.json").write_text('{"recipe": "quickstart", "policy": "smollm2-135m"}')
    with pytest.raises(ReportError, match="lists no stages; run the recipe again in a new folder"):
        render(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run folder: .* has no run.json"),
        ("[]", "expected a JSON object"),
        ("{", r"run\.json: cannot be read"),
        ('{"facts": {}, "stages": [{"name": "dpo"}]}', r"stages\.0\.kind: "),
    ],
)
def test_a_folder_that_is_no_run_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        render(tmp_path)
    with pytest.raises(ReportError, match="no such folder"):
        write_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_a_page_that_cannot_be_made_leaves_the_old_one(copy):
    page = copy / "report.html"
    page.write_text("old")
    (copy / "labels" / "labels.summary.json").write_text('{"unjudged": 0}')
    with pytest.raises(
        ReportError, match=r"labels\.summary\.json: cannot be read: unjudged_by_reason: missing"
    ):
        write_page(ReportInputs.of_run(copy), page)
    assert page.read_text() == "old"
