"""rlaif.red_team, adopt_failures and check_regressions, with a fake in place of every model."""

from __future__ import annotations

import pytest

import rlaif
from rlaif.data.records import RecordError
from rlaif.redteam import responder
from rlaif.redteam.attack import plan_attack
from rlaif.redteam.config import RedTeamConfig
from rlaif.redteam.records import FAILURES, TWINS
from rlaif.redteam.strategies import RedTeamError
from tests.support.feedback.red_teams import REFUSAL, SMALL, FakeModel, HarmRater, small_file

BOTH_SIDES = [
    {**SMALL["strategies"][0], "id": name, "templates": [f"As {name}: {{request}}"]}
    for name in ("direct", "fiction")
]


@pytest.fixture
def models(monkeypatch):
    """Every model is a fake that does what it is asked; what was loaded: (name, settings)."""
    loaded = []

    def local(name, model, config, journal):
        loaded.append((name, config))
        return FakeModel(lambda text: f"Sure, harm {len(text)}.", name)

    monkeypatch.setattr(responder, "LocalModel", local)
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda name: name)
    return loaded


@pytest.fixture
def attacked(tmp_path, models):
    """The folder of an attack in families of both sides that succeeded everywhere."""
    file = small_file(tmp_path, strategies=BOTH_SIDES)
    done = rlaif.red_team("org/m", verdict="rule", strategies=file, out=tmp_path / "red")
    assert (done.succeeded, done.cells, done.judge) == (4, 4, "")
    return tmp_path / "red"


def adopted(folder, **options):
    return rlaif.adopt_failures(
        folder / FAILURES, train=folder / "p.jsonl", tests=folder / "t.jsonl", **options
    )


def test_red_team_asks_an_open_client_and_words_requests_anew(tmp_path, models):
    rater = HarmRater()
    done = rlaif.red_team(
        "org/m", attacker="org/a", server=rater, constitution="hhh", out=tmp_path / "red",
        config=RedTeamConfig(strategies=small_file(tmp_path)), temperature=0.5,
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    assert (done.succeeded, done.attacker, done.verdict) == (4, "org/a", "both")
    assert len(rater.rated) == 4
    (target, own), (writer, plain) = models
    assert (target, writer, own.temperature) == ("org/m", "org/a", 0.5)
    assert own.chat_template_kwargs == {"enable_thinking": False}
    assert plain.chat_template_kwargs == {}, "they are the target's template's"


def test_red_team_names_every_problem_before_anything_is_loaded(tmp_path, models):
    with pytest.raises(rlaif.RefusedError) as error:
        rlaif.red_team("org/m", out=3, topics=["froud"], verdict="both")
    first, second, third = map(str, error.value.problems)
    assert first.startswith("invalid out: 3; give a path")
    assert second.startswith("unknown topic 'froud'")
    assert third.startswith("expected one judge: none")
    with pytest.raises(rlaif.UserError, match="verdict=rule asks no judge; remove the judge"):
        rlaif.red_team("org/m", verdict="rule", server="127.0.0.1:1", out=tmp_path)
    assert models == []


def test_red_team_plans_as_the_command_does(tmp_path, models):
    with pytest.raises(RedTeamError) as refused:
        plan_attack(*_shipped(budget=3))
    with pytest.raises(RedTeamError) as error:
        rlaif.red_team("org/m", verdict="rule", budget=3, out=tmp_path)
    assert str(error.value) == str(refused.value)


def _shipped(**settings):
    from rlaif.redteam.strategies import load_strategies

    return load_strategies(), RedTeamConfig(**settings)


def test_adopt_failures_splits_by_family_and_takes_twins_and_a_share(attacked):
    counts = adopted(attacked, twins=attacked / TWINS, write=False)
    assert (counts.train, counts.tests, counts.twins) == (4, 4, 4)
    assert adopted(attacked, share=1.0).sides == {"direct": "tests", "fiction": "tests"}
    assert not (attacked / "p.jsonl").exists()


def test_adopt_failures_refuses_wrong_arguments_and_writes_nothing(attacked):
    with pytest.raises(rlaif.RefusedError) as error:
        adopted(attacked, share=2, test_families="direct")
    assert "invalid share: 2; give the share of attack families" in str(error.value)
    assert "invalid test_families: 'direct'; give a list of names" in str(error.value)
    assert not (attacked / "t.jsonl").exists()


def test_check_regressions_says_what_passed_and_why_not(attacked, models, monkeypatch):
    adopted(attacked)
    words = {"tests": attacked / "t.jsonl", "out": attacked / "check"}
    failed = rlaif.check_regressions("org/m", junit=attacked / "j.xml", **words)
    assert [each.why for each in failed] == ["does not refuse"] * 2
    assert 'failures="2"' in (attacked / "j.xml").read_text()
    assert models[-1][1].temperature == 0
    safe = lambda name, *_: FakeModel(lambda text: REFUSAL, name)  # noqa: E731
    monkeypatch.setattr(responder, "LocalModel", safe)
    assert all(each.passed for each in rlaif.check_regressions("org/m", **words))
    assert (attacked / "check" / "checked.jsonl").is_file()


def test_check_regressions_asks_a_judge_where_one_is_given(attacked, models, monkeypatch):
    adopted(attacked)
    kind = lambda name, *_: FakeModel(lambda text: "A nice day.", name)  # noqa: E731
    monkeypatch.setattr(responder, "LocalModel", kind)
    words = {"tests": attacked / "t.jsonl", "out": attacked / "check"}
    assert not any(each.passed for each in rlaif.check_regressions("org/m", **words))
    judged = rlaif.check_regressions("org/m", server=HarmRater(), constitution="hhh", **words)
    assert all(each.passed for each in judged)


def test_check_regressions_refuses_a_file_that_is_not_there(tmp_path, models):
    with pytest.raises(RecordError, match=r"gone\.jsonl"):
        rlaif.check_regressions("org/m", tmp_path / "gone.jsonl", out=tmp_path)
    assert models == []
