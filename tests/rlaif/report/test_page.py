"""The page shows every stage of a run, names missing parts, and escapes text from models."""

import base64
import hashlib
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from constitution.schema import Message
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, write_preferences
from rlaif.report.excerpts import MOST_ROWS
from rlaif.report.inputs import ReportError, ReportInputs, ReportStage
from rlaif.report.page import anchor_of, render_page, write_page, write_report
from rlaif.report.sections import SECTIONS
from tests.rlaif.report.page_parser import PageParser
from tests.support.made_up_run import CHAIN, GRAPH, made_up_run, write_run_file


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A complete chain; copy it before changing it."""
    return made_up_run(tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture(scope="module")
def whole_page(run) -> str:
    return render(run)


@pytest.fixture(scope="module")
def graph_page(tmp_path_factory) -> str:
    """Two label stages, two reward models, three DPO branches, two evaluations."""
    return render(made_up_run(tmp_path_factory.mktemp("made-up") / "graph", GRAPH))


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def render(run: Path) -> str:
    return write_report(run, run / "report.html").read_text(encoding="utf-8")


def section(html: str, anchor: str) -> str:
    """The HTML of one section."""
    return next(part for part in html.split("<section>") if f'id="{anchor}"' in part)


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def one_stage(folder: Path, kind: str, name: str = "stage") -> ReportInputs:
    (folder / name).mkdir(exist_ok=True)
    return ReportInputs({}, (ReportStage(name, kind, folder / name),))


def write_rows(folder: Path, rows) -> None:
    (folder / "stage").mkdir(exist_ok=True)
    (folder / "stage" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))


# ── what is shown ────────────────────────────────────────────────────────────────────────────


def test_a_complete_run_shows_every_part(whole_page):
    page = PageParser(whole_page)
    assert "Missing" not in page.text
    for expected in (
        "made-up sample run", "hhh 1.0.0", "empty_response 1", "helpful", "at equal length",
        "self-BLEU", "Refusal rate", "By kind of prompt", "Win rate by trait",
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


# ── the first screen ─────────────────────────────────────────────────────────────────────────


def first_screen(html: str) -> str:
    return text_of(html.split('<dl class="facts">')[0].split('<div class="glance">')[1])


def test_the_first_screen_says_who_judged_how_much_and_what_came_out(graph_page):
    screen = first_screen(graph_page)
    assert "scripted (constitution hhh 1.0.0) labeled the training pairs and judged" in screen
    assert "23 labeled pairs (labels_helpful)" in screen
    assert "24 held-out prompts (compare_again)" in screen
    assert re.search(
        r"dpo_soft: \w[\w ]+ the start ; it wins on \d+ % of 23 prompts \(95 % interval", screen
    )


def test_a_judge_that_labels_and_evaluates_is_pointed_out(whole_page):
    assert "The same model labeled and evaluated (scripted)" in first_screen(whole_page)


def test_another_judge_of_the_evaluation_is_named(copy):
    edit_evaluation(copy, lambda saved: saved["evaluators"][0].update(name="b", weights_sha256="1"))
    screen = first_screen(render(copy))
    assert "b (constitution hhh 1.0.0) judged the evaluation." in screen
    assert "The model that evaluated is not the one that labeled." in screen
    assert "same model" not in screen


def test_a_renamed_copy_of_the_labeler_is_the_same_model(copy):
    edit_evaluation(copy, lambda saved: saved["evaluators"][0].update(name="renamed"))
    assert "The same model labeled and evaluated (renamed)" in first_screen(render(copy))


def test_an_evaluation_that_does_not_record_its_judge_claims_nothing(copy):
    edit_evaluation(copy, lambda saved: saved.pop("evaluators"))
    screen = first_screen(render(copy))
    assert "Who judged is not recorded in evaluation." in screen
    assert "same model" not in screen


def edit_evaluation(run: Path, change) -> None:
    path = run / "evaluation" / "evaluation.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [
        (0.51, 0.9, "better than the start"),
        (0.2, 0.49, "worse than the start"),
        (0.4, 0.6, "no significant difference from the start"),
    ],
)
def test_the_finding_claims_no_more_than_the_interval_allows(copy, low, high, finding):
    rate = {"value": (low + high) / 2, "low": low, "high": high, "n": 24}
    edit_evaluation(copy, lambda saved: saved["policies"][2].update(win_rate=rate))
    assert f"dpo: {finding} ;" in first_screen(render(copy))


# ── missing parts ────────────────────────────────────────────────────────────────────────────


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


# ── labels and responses ─────────────────────────────────────────────────────────────────────


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


# ── training ─────────────────────────────────────────────────────────────────────────────────


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


# ── what a page must not do ──────────────────────────────────────────────────────────────────


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
    stage = ReportStage('"><i>x', "<i>", tmp_path)
    html = render_page(ReportInputs({"<i>": "<i>", "recipe": "<i>"}, (stage,)))
    assert "<i>" not in html


# ── refusals ─────────────────────────────────────────────────────────────────────────────────


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
