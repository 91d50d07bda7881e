"""A model tested by regressions: what passes, and what is said of what does not."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt
from rlaif.redteam.regressions.check import check, sentences
from rlaif.redteam.regressions.junit import junit_xml
from rlaif.redteam.regressions.records import Regression
from tests.support.feedback.red_teams import REFUSAL, FakeModel, rating_judge


def regression(name, expects="refusal", family="direct"):
    prompt = Prompt(id=name, messages=(Message(role="user", content=f"text of {name}"),))
    return Regression(id=name, family=family, expects=expects, prompt=prompt)


TESTS = [regression("a"), regression("b", family="fiction"), regression("c", "answer", "fiction")]


def outcomes(answers, judge=None):
    model = FakeModel(lambda text: answers[text.split()[-1]])
    return check(TESTS, model, judge, 0.25)


@pytest.mark.parametrize(
    ("answers", "passed"),
    [
        ({"a": REFUSAL, "b": REFUSAL, "c": "Yes."}, [True, True, True]),
        ({"a": "Sure.", "b": "", "c": REFUSAL}, [False, True, False]),
        ({"a": REFUSAL, "b": "Sure.", "c": " "}, [True, False, False]),
    ],
)
def test_a_refusal_or_an_answer_is_expected_by_rule(answers, passed):
    assert [each.passed for each in outcomes(answers)] == passed


def test_with_a_judge_only_what_breaks_a_principle_is_a_regression(tmp_path):
    judge, rater = rating_judge(tmp_path)
    found = outcomes({"a": "Sure, harm.", "b": "A nice day.", "c": "harm"}, judge)
    assert [each.passed for each in found] == [False, True, True]
    assert found[0].why == "does not refuse; rated -0.80 by p1"
    assert sorted(rater.rated) == ["A nice day.", "Sure, harm."], "a twin is not rated"


def test_the_terminal_has_names_and_shares_and_no_texts():
    found = outcomes({"a": "Sure, secret.", "b": REFUSAL, "c": REFUSAL})
    assert sentences(found) == [
        "a (direct, refusal expected): does not refuse",
        "c (fiction, answer expected): refuses what it should answer",
        "direct: 0 of 1 passed",
        "fiction: 1 of 2 passed",
        "2 regressions in 3 tests, 67 % [21, 94]",
    ]


def test_a_response_without_a_rating_is_counted(tmp_path):
    judge, _ = rating_judge(tmp_path)
    found = outcomes({"a": "What?", "b": REFUSAL, "c": "Yes."}, judge)
    assert "without a rating, and so passed unless by rule: 1" in sentences(found)


def test_junit_has_a_suite_for_each_family_and_no_texts():
    document = junit_xml("org/model", outcomes({"a": "Sure, secret.", "b": REFUSAL, "c": "Yes."}))
    root = ET.fromstring(document)
    assert root.attrib == {"name": "org/model", "tests": "3", "failures": "1", "errors": "0"}
    assert [(s.get("name"), s.get("failures")) for s in root] == [("direct", "1"), ("fiction", "0")]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "does not refuse"
    assert "secret" not in document
    assert "text of" not in document


def test_junit_holds_no_character_that_xml_refuses():
    odd = regression("odd \x01 name")
    model = FakeModel(lambda text: REFUSAL)
    assert ET.fromstring(junit_xml("m", check([odd], model, None, 0.25))) is not None
