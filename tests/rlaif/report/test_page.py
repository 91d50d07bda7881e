"""The page shows every part of a run, names missing parts, and escapes text from models."""

import json
import math
import random
import re
import shutil
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from constitution.schema import Message
from judge_service.types import Comparison
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import KL, JudgedPair, PolicyRun, evaluate
from rlaif.evaluation.reward_models import PairMetrics, evaluate_reward
from rlaif.feedback.labeler import label
from rlaif.report.page import ReportError, write_report
from tests.support.feedback.scripted_judge import ScriptedJudge

WORDS = ["a", "made", "up", "answer", "of", "some", "words", "without", "any", "meaning"]


def made_up_run(run: Path, prompts: int = 24, extra: str = "") -> Path:
    """A complete run folder made of seeded random numbers, marked as made up."""
    random.seed(7)
    questions = [
        Prompt(
            id=f"p{i}",
            messages=(Message(role="user", content=f"Made-up question {i}? {extra}"),),
            kind=("everyday", "support", "borderline", "harmful")[i % 4],
        )
        for i in range(prompts)
    ]
    facts = {"recipe": "made-up sample run", "policy": "none (made up)", "seed": 7}
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(facts))
    pairs = [
        Comparison(p.id, p.messages, answer() + extra, "" if i == 0 else answer())
        for i, p in enumerate(questions)
    ]
    label(pairs, ScriptedJudge(), run / "labels")
    labels = read_preferences(run / "labels" / "preferences.parquet")
    reward_evaluation(labels).save(run / "reward" / "evaluation.json")
    metrics(run / "sft", lambda t: {"loss": 2.5 - t, "heldout_loss": 2.6 - 0.8 * t})
    metrics(run / "reward", lambda t: {"loss": 0.7 - 0.2 * t, "accuracy": 0.5 + 0.3 * t})
    metrics(run / "dpo", lambda t: {"loss": 0.693 - 0.1 * t, "margin": t, "accuracy": 0.5 + t / 4})
    metrics(
        run / "rest",
        lambda t: {
            "score": round(2 * t) / 2,
            "threshold": round(4 * t) / 4,
            "loss": 2 - t,
            "response_length": 50,
            "eos_rate": 0.9,
            "distinct_2": 0.8,
        },
    )
    metrics(
        run / "ppo",
        lambda t: {
            "score": t,
            "judge_score": 0.5 + t / 5 - t * t / 4,
            "kl_k1": 3 * t,
            "response_length": 60 + 9 * t,
            "eos_rate": 0.9,
            "entropy": 3 - t,
            "distinct_2": 0.9 - 0.3 * t,
            "clip_fraction": 0.1,
            "explained_variance": t / 2,
        },
        alarms={50: "kl_over_ceiling"},
    )
    evaluation(questions, extra).save(run / "evaluation" / "evaluation.json")
    return run


def answer() -> str:
    return " ".join(random.choices(WORDS, k=random.randint(3, 60)))


def reward_evaluation(labels):
    def scores(mean):
        return [random.gauss(mean, 1) for _ in labels]

    whole = evaluate_reward(labels, scores(0.5), scores(-0.3))
    traits = {
        trait: PairMetrics(**{f.name: getattr(whole, f.name) for f in fields(PairMetrics)})
        for trait in ("helpful", "honest")
    }
    return replace(whole, traits=traits)


def metrics(folder: Path, at, alarms=None) -> None:
    """60 steps of `at`(fraction of run) with noise; held-out and judge metrics every tenth."""
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("w") as out:
        for step in range(1, 61):
            noisy = {
                k: v + random.gauss(0, 0.03)
                for k, v in at(step / 60).items()
                if step % 10 == 0 or not k.startswith(("held", "judge"))
            }
            active = [name for since, name in (alarms or {}).items() if step >= since]
            out.write(json.dumps({"step": step, **noisy, "alarms": active}) + "\n")


def evaluation(questions, extra):
    def run(name, kl):
        samples = [
            Sample(
                prompt=q,
                index=0,
                response=refusal(q, kl) + answer() + extra,
                tokens=40,
                complete=True,
                seed=0,
            )
            for q in questions
        ]
        rewards = [random.gauss(kl, 1) for _ in samples]
        estimate = Estimate(kl, kl - 0.1, kl + 0.1, len(samples))
        return PolicyRun(name, samples, rewards, KL(estimate, estimate) if kl else None, 90.0)

    def compare(questions):
        return {
            id: JudgedPair(None, "too_long")
            if id.endswith("p3/0")
            else JudgedPair(random.random(), traits={"helpful": random.random(), "honest": 0.4})
            for id, *_ in questions
        }

    trained = [run("SFT", 0.2), run("DPO", 0.4), run("PPO", 1.2), run("ReST", 0.6)]
    return evaluate(run("start", 0), trained, compare)


def refusal(question, kl) -> str:
    return "I can't help with that. " if kl > 1 and question.kind == "harmful" else ""


class PageParser(HTMLParser):
    """Tags in order and the text between them; fails on tags that do not close."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A complete run; copy it before deleting from it."""
    return made_up_run(tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture(scope="module")
def whole_page(run) -> str:
    return render(run)


@pytest.fixture
def no_curves(monkeypatch) -> None:
    """Drawing two dozen curves takes seconds; most tests do not look at them."""
    drawn = Markup('<svg role="img"></svg>')
    monkeypatch.setattr("rlaif.report.figures.curve", lambda *_: drawn)


def render(run: Path) -> str:
    return write_report(run, run / "report.html").read_text(encoding="utf-8")


def test_a_complete_run_shows_every_part(whole_page):
    page = PageParser(whole_page)
    assert "This run has no" not in page.text
    for expected in (
        "made-up sample run", "hhh 1.0.0", "DPO", "PPO", "SFT", "ReST", "empty_response 1",
        "helpful", "at equal length", "self-BLEU", "Refusal rate", "By kind of prompt",
        "Win rate by trait", "Alarms: kl over ceiling: from step 50, in 11 of 60 steps.",
        "PPO: the reward score is up by",
    ):  # fmt: skip
        assert expected in page.text
    plots = {"result": 2, "labels": 1, "reward": 2 + 2, "SFT": 1, "DPO": 3, "PPO": 9, "ReST": 6}
    assert sum(tag == "svg" for tag, _ in page.tags) == sum(plots.values())
    assert "d" * 64 in page.text, "the receipt of a label"


def test_the_page_loads_nothing_from_elsewhere(whole_page):
    page = PageParser(whole_page)
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "img", "iframe"}]
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert name != "src"
            assert name not in {"href", "xlink:href"} or value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", whole_page)


def test_text_from_models_cannot_become_markup(no_curves, tmp_path):
    evil = "<script>alert(1)</script><b title='x'>&amp;{{ 7 * 7 }}"
    page = PageParser(render(made_up_run(tmp_path / "run", prompts=4, extra=evil)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("labels/preferences.parquet", "no labels yet"),
        ("reward/evaluation.json", "no reward-model evaluation yet"),
        ("dpo/metrics.jsonl", "no DPO metrics yet"),
        ("ppo/metrics.jsonl", "no PPO metrics yet"),
        ("evaluation/evaluation.json", "no evaluation yet"),
    ],
)
def test_a_missing_part_is_named_and_the_rest_is_shown(no_curves, run, tmp_path, missing, note):
    less = shutil.copytree(run, tmp_path / "run")
    (less / missing).unlink()
    text = PageParser(render(less)).text
    assert note in text
    assert text.count("This run has no") <= 2


@pytest.mark.parametrize(("folder", "title"), [("sft", "SFT"), ("rest", "ReST")])
def test_an_optional_stage_that_did_not_run_leaves_no_gap(no_curves, run, tmp_path, folder, title):
    less = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(less / folder)
    html = render(less)
    assert f"<h2>{title}</h2>" not in html
    assert "This run has no" not in html


def test_an_evaluation_without_the_newer_metrics_is_shown(no_curves, run, tmp_path):
    old = shutil.copytree(run, tmp_path / "run")
    path = old / "evaluation" / "evaluation.json"
    saved = json.loads(path.read_text())
    newer = (
        "length_controlled", "traits", "reward_gain", "self_bleu", "refusals_safe",
        "refusals_harmful", "kinds",
    )  # fmt: skip
    for policy in saved["policies"]:
        for name in newer:
            del policy[name]
        for verdict in policy["verdicts"]:
            del verdict["gap"], verdict["traits"]
    path.write_text(json.dumps(saved))
    assert "DPO: no significant difference" in PageParser(render(old)).text


def test_a_rollback_to_the_best_policy_is_shown(no_curves, tmp_path):
    rows = [{"step": step, "score": 1.0, "rollback": float(step == 2)} for step in (1, 2, 3)]
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "rolled back to the best judged policy after step 2" in PageParser(render(tmp_path)).text


def test_an_empty_run_folder_gives_a_page_of_notes(tmp_path):
    assert PageParser(render(tmp_path)).text.count("This run has no") == 6


def test_nan_and_missing_values_are_left_out_of_curves(tmp_path):
    rows = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.5}]
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sum(tag == "svg" for tag, _ in PageParser(render(tmp_path)).tags) == 1


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(ReportError, match=r"dpo/metrics\.jsonl: cannot be read"):
        render(tmp_path)
    with pytest.raises(ReportError, match="no such run folder"):
        write_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_the_finding_claims_no_more_than_the_interval_allows(whole_page):
    assert (
        "no significant difference from the start with this many prompts"
        in PageParser(whole_page).text
    )
