"""Compare texts without a criterion are found; a single word to look for silences the rules."""

from __future__ import annotations

import re

import pytest

from constitution.lint import Severity, lint
from constitution.lint.criteria import _SIGNS
from tests.support.constitutions import comparing, rules

CIRCULAR = """
Prefer the reply that people like more.
Prefer the answer that a user would rate highly.
Choose the response that most readers would find better.
Prefer the reply that the customer wants.
Prefer the one that you value most.
The reply that experts rank higher wins.
Prefer the reply that better follows the principle.
Prefer the answer that meets our standards.
Choose the response that closely matches the guidelines.
Prefer the reply that is best according to the constitution.
Prefer the answer that fulfills the requirements above.
Choose the text that satisfies all criteria.
""".strip().splitlines()
VAGUE = """
The better answer.
The response that is best.
Prefer the ideal reply.
Prefer the reply of higher quality.
Prefer the reply that is best for the user.
Prefer the stronger answer.
""".strip().splitlines()
BARE = """
The most helpful one.
Prefer the friendly answer.
Prefer the kinder reply.
Choose the more polite response.
Choose whichever is kinder.
Prefer the reply that is helpful.
Prefer the reply that sounds friendly and respectful to the customer.
Choose the response with more empathy.
Prefer the answer that is written in a professional tone.
Prefer the clearer explanation.
Prefer the reply that responds in a friendly way.
Prefer the less rude reply.
Prefer the friendly reply over the unfriendly one.
Prefer the reply that uses clear language.
Prefer the more natural sounding reply.
""".strip().splitlines()
CRITERIA = """
Prefer the answer that names a concrete next step.
Prefer the reply that is more helpful, honest and harmless.
Prefer the friendly reply over one that blames the customer.
Prefer the reply that is polite when the customer is rude.
Prefer the reply that is clear to a child.
Prefer the reply that greets the customer kindly.
Prefer the reply that shows respect by using the customer's name.
Prefer the reply in the language of the user.
Prefer the reply that follows the instructions of the request.
Prefer the reply that says what the user wants to know.
Prefer the reply that asks which of the two the customer prefers.
Prefer the reply that states the rule on refunds.
Prefer the reply that names the principle behind the formula.
Prefer the reply that rates each option.
Prefer the reply that tells the reader how safe the dose is.
Prefer the story with the more interesting ending.
Prefer the reply with the better arithmetic.
Prefer the natural logarithm in formulas.
Prefer the correct answer.
Prefer the reply that is formal.
Prefer the concise answer.
Prefer the reply that uses the word "friendly".
Bevorzuge die freundliche Antwort.
""".strip().splitlines()


@pytest.mark.parametrize("text", CIRCULAR)
def test_a_preference_that_defines_itself_goes_in_a_circle(text: str) -> None:
    assert rules(comparing(text)) == ["circular-compare"]


@pytest.mark.parametrize("text", VAGUE)
def test_praise_alone_is_vague(text: str) -> None:
    assert rules(comparing(text)) == ["vague-compare"]


@pytest.mark.parametrize("text", BARE)
def test_a_quality_without_a_sign_of_it_is_bare(text: str) -> None:
    assert rules(comparing(text)) == ["bare-quality"]


@pytest.mark.parametrize("text", CRITERIA)
def test_a_text_with_something_to_look_for_has_no_finding(text: str) -> None:
    assert rules(comparing(text)) == []


def test_the_quality_is_named_and_its_remedy_is_a_way_to_say_it() -> None:
    (found,) = lint(comparing("Prefer the friendly answer."))
    assert found.severity is Severity.ADVICE
    assert "the quality 'friendly'" in found.message
    assert found.remedy == (
        "say what shows it, for example: 'Prefer the reply that greets the person, or thanks them "
        "for what they did.'"
    )


def test_the_circle_is_explained() -> None:
    (by_wish,) = lint(comparing("Prefer the reply that people like more."))
    assert "which reply is preferred is what the judge is asked" in by_wish.message
    (by_rule,) = lint(comparing("Prefer the answer that meets our standards."))
    assert "the judge reads this text and no other rules" in by_rule.message


@pytest.mark.parametrize("sign", _SIGNS)
def test_what_a_remedy_suggests_has_no_finding_itself(sign: str) -> None:
    assert rules(comparing(f"Prefer the reply that {sign}.")) == []


def test_each_quality_belongs_to_one_sign() -> None:
    words = re.findall(r"\w+", " ".join(_SIGNS.values()))
    assert len(words) == len(set(words))
