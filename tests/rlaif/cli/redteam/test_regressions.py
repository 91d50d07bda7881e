"""rlaif redteam adopt, check and convert: from failures to a build that fails."""

from __future__ import annotations

from contextlib import contextmanager
from xml.etree import ElementTree as ET

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rlaif.cli.main import app
from rlaif.redteam import responder
from rlaif.redteam.attack import red_team
from rlaif.redteam.families import SHARE_OF_TESTS
from rlaif.redteam.records import FAILURES, TWINS
from tests.support.feedback.red_teams import REFUSAL, SMALL, FakeModel, HarmRater, small_plan

BOTH_SIDES = [{**SMALL["strategies"][0], "id": name} for name in ("direct", "fiction")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the failures of a model that answers everything."""
    from tests.support.feedback.red_teams import small_file

    file = small_file(tmp_path, strategies=BOTH_SIDES)
    wording = [{**each, "templates": [f"As {each['id']}: {{request}}"]} for each in BOTH_SIDES]
    small_file(tmp_path, strategies=wording)
    red_team(small_plan(tmp_path, strategies=file), FakeModel(str), tmp_path, judge=None)
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    return tmp_path


@pytest.fixture
def answers(monkeypatch):
    """Sets what the model under test answers."""

    def use(answer):
        local = lambda name, model, config, journal: FakeModel(answer, name)  # noqa: E731
        monkeypatch.setattr(responder, "LocalModel", local)

    return use


def redteam(*words):
    return CliRunner().invoke(app, ["redteam", *map(str, words)])


def adopted(files, tests="regressions.jsonl"):
    return redteam(
        "adopt", files / FAILURES, "--train", files / "prompts.jsonl", "--tests", files / tests,
        "--twins", files / TWINS,
    )  # fmt: skip


def test_failures_become_prompts_and_tests(files):
    done = adopted(files)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "4 training prompts and 4 tests, 4 of them twins",
        "families for train: direct",
        "families for tests: fiction",
    ]
    again = adopted(files)
    assert "2 of 4 prompts are in " in str(again.exception)


@pytest.mark.parametrize("tests", ["regressions.jsonl", "regressions.yaml"])
def test_a_regression_fails_the_build_and_its_file_says_which(files, answers, tests):
    adopted(files, tests)
    words = ("check", "org/model", files / tests, "--out", files / "c", "--junit", files / "j.xml")
    answers(lambda text: REFUSAL if "steal" in text else "Sure.")
    failed = redteam(*words)
    assert failed.exit_code == 1
    assert "1 regressions in 4 tests" in failed.output
    (case,) = [c for c in ET.parse(files / "j.xml").iter("testcase") if len(c)]
    assert case.get("name", "").startswith("fiction-lies-")
    assert "deceive" not in failed.output
    answers(lambda text: REFUSAL if "steal" in text or "deceive" in text else "Sure.")
    passed = redteam(*words)
    assert passed.exit_code == 0, passed.output
    assert (files / "c" / "checked.jsonl").exists()


def test_a_judge_is_asked_where_one_is_named(files, answers, monkeypatch):
    adopted(files)
    served = []

    @contextmanager
    def judge_client(model, constitution, log, server="", **_):
        served.append(model)
        yield HarmRater()

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    answers(lambda text: "A nice day.")
    words = ("check", "org/model", files / "regressions.jsonl", "--out", files / "c")
    assert redteam(*words).exit_code == 1
    assert redteam(*words, "--judge", "org/j", "-c", "hhh").exit_code == 0
    assert served == ["org/j"]


def test_a_dry_run_of_a_check_counts_the_tests(files, answers):
    adopted(files)
    answers(None)
    done = redteam("check", "org/model", files / "regressions.jsonl", "--dry-run")
    assert done.output == "org/model would be tested by 4 regressions, by rule\n"


def test_another_share_of_families_becomes_tests(files):
    words = ("adopt", files / FAILURES, "--train", files / "p.jsonl", "--tests", files / "t.jsonl")
    every = redteam(*words, "--share", "1", "--dry-run")
    assert every.output.splitlines()[-1] == "families for tests: direct, fiction"
    assert redteam(*words, "--share", "1.5").exit_code == 2
    share = next(p for p in get_command(app).commands["redteam"].commands["adopt"].params
                 if p.name == "share")  # fmt: skip
    assert share.default == SHARE_OF_TESTS


def test_tests_are_converted_to_promptfoo_and_back(files):
    adopted(files)
    ours, theirs, back = (files / name for name in ("regressions.jsonl", "r.yaml", "r.jsonl"))
    assert redteam("convert", ours, theirs).exit_code == 0
    assert redteam("convert", theirs, back).exit_code == 0
    assert len(back.read_text().splitlines()) == 4


def test_a_file_that_is_no_regressions_is_refused(files, answers):
    answers(None)
    done = redteam("check", "org/model", files / FAILURES)
    assert "not as `rlaif redteam adopt` writes it" in str(done.exception)
