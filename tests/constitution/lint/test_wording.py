"""For each wording rule, texts it must report and near misses it must not."""

from __future__ import annotations

import pytest

from constitution.lint import Severity, lint
from constitution.lint.wording import MAX_WORDS
from tests.support.constitutions import comparing, constitution, example, principle, rules

FIRES = [
    ("vague-compare", "Prefer the reply that is better."),
    ("vague-compare", "Be good."),
    ("vague-compare", "Choose the most appropriate, nice and suitable answer."),
    ("vague-compare", "…!"),
    ("not-a-comparison", "The reply is polite to the customer."),
    ("not-a-comparison", "Replies must be polite."),
    ("several-criteria",
     "Prefer the reply that names a step and a date and a person and says sorry."),
    ("several-criteria", "Prefer the reply that is clear, short, warm and honest."),
    ("several-criteria", "Prefer the reply that is calm. Prefer the reply that names a date."),
    ("names-position", "Prefer the first reply when both are polite."),
    ("names-position", "Prefer reply A when it names a date."),
    ("names-position", "Prefer A if it names a date."),
    ("names-position", "When both are polite, choose the latter."),
    ("names-length", "Prefer the longer reply."),
    ("names-length", "Prefer the reply that is much shorter."),
    ("names-length", "Prefer the reply with fewer words."),
    ("double-negation", "Prefer the reply that does not fail to name a date."),
    ("double-negation", "Prefer the reply that never leaves out nothing."),
    ("double-negation", "Prefer the reply that is not unkind."),
    ("asks-a-question", "Which reply names a date?"),
    ("placeholder", "TODO"),
    ("placeholder", "TODO: prefer the reply that names a date."),
    ("placeholder", "Prefer the reply that [insert criterion]."),
    ("placeholder", "Prefer the reply that <your rule here>."),
]  # fmt: skip

NEAR_MISSES = [
    "Prefer the reply with the better arithmetic.",  # names arithmetic
    "Prefer the reply that is good at naming dates.",
    "Choose whichever is kinder to the losing side.",
    "The reply that names more dates wins.",
    "Bevorzuge die Antwort, die ein Datum nennt.",  # the rules ignore other languages
    "より丁寧な返答を選ぶ。",
    "Prefer the reply that stays calm and respectful and takes the trouble seriously.",
    "Prefer the reply that keeps to the form, length, language and number of items.",
    "Prefer the reply that does not insult people for their origin, religion, sex, age or body.",
    "Prefer the reply whose first sentence answers the question.",
    "Prefer the reply that first tells the customer how to stay safe.",
    "Prefer the reply that gives the right answer.",
    "Prefer the reply that treats vitamin A as a vitamin.",
    "Prefer the reply that answers a question with a date.",
    "Prefer the reply that would answer A-level questions in full.",
    "Prefer the reply that is no longer than the question needs.",
    "Prefer the reply that is shorter than needed for a text message.",
    "Prefer the reply that keeps to the length that the request asks for.",
    "Prefer the reply that explains the longer route too.",
    "Prefer the reply without excuses and without blaming the customer.",
    "Prefer the reply that says what it does not or cannot know.",
    "Prefer the reply that neither gives out nor asks for passwords.",
    "Prefer the reply that is not only kind but useful.",
    "Prefer the reply that is not important-sounding.",
    'Prefer the reply that asks "What do you need?" when the request is unclear.',
    'Prefer the reply that never says "Prefer reply A".',
    "Prefer the review that resolves the TODO in the code.",
    "Prefer the reply that keeps the author's TODO list.",
    "Prefer the reply that keeps [brackets] and <b>tags</b> as they are.",
]

ORDINARY = """
Choose the response that a wise, ethical, polite, and friendly person would more likely give.
Choose the response that is less racist, sexist and toxic.
Choose the response that least gives the impression of giving specific legal advice.
Prefer the summary that keeps the figures of the article.
Prefer the summary that leaves out opinions of the reporter.
Prefer the code that handles the empty list.
Prefer the code that raises an error with a message rather than returning None.
Prefer the translation that keeps the tone of the original.
Prefer the reply that does not promise a date without checking it.
Prefer the reply that asks for missing information before it guesses.
Prefer the reply which always cites the policy section it relies on.
Prefer the reply that has no spelling mistakes.
Prefer the reply that uses metric units.
Prefer the reply that uses short sentences.
Prefer the reply that explains technical terms.
Prefer the reply that is written in the language of the request.
Prefer the reply that does not invent sources.
Prefer the reply that names its sources.
Prefer the reply that admits when it does not know.
Prefer the reply that gives a direct answer first and reasons second.
When asked for code, prefer the reply with a runnable program.
Prefer the reply that warns about side effects of medicine.
Prefer the reply that avoids warnings nobody needs.
Prefer the reply that never shares a home address.
Prefer the story whose characters speak in their own voices.
Prefer the reply that explains things simply.
Prefer the reply that explains the technical reason.
Prefer the reply that says sorry once, not over and over.
Prefer the reply with concrete numbers.
Prefer the reply with a general rule before the example.
""".strip().splitlines()


def test_thirty_ordinary_principles_in_one_constitution_give_no_warning() -> None:
    principles = [principle(f"rule-{n}-of-many", compare=text) for n, text in enumerate(ORDINARY)]
    found = lint(constitution(*principles))
    assert [f for f in found if f.severity is not Severity.ADVICE] == []
    assert {f.rule for f in found} <= {"double-negation"}  # "does not promise … without"


@pytest.mark.parametrize(("rule", "text"), FIRES)
def test_a_weak_wording_is_reported_by_its_rule_alone(rule: str, text: str) -> None:
    found = lint(comparing(text))
    assert {finding.rule for finding in found} == {rule}
    assert all(finding.path == ("principles", 0, "compare") for finding in found)
    assert all(finding.remedy and "rule-a" in finding.message for finding in found)


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_a_near_miss_gets_no_finding(text: str) -> None:
    assert rules(comparing(text)) == []


def test_a_long_text_is_reported_with_its_number_of_words() -> None:
    words = ["word"] * (MAX_WORDS - 4)
    assert rules(comparing(f"Prefer the reply that {' '.join(words)}.")) == []
    (found,) = lint(comparing(f"Prefer the reply that has {' '.join(words)}."))
    assert found.rule == "compare-too-long"
    assert f"has {MAX_WORDS + 1} words (" in found.message


def test_a_long_text_without_spaces_is_long_too() -> None:
    assert rules(comparing("丁" * 501)) == ["compare-too-long"]
    assert rules(comparing("丁" * 500)) == []


ABSOLUTE = "Prefer the reply that never speaks of prices."


def test_an_absolute_needs_a_scope_a_condition_or_examples() -> None:
    assert rules(comparing(ABSOLUTE, examples=[])) == ["unscoped-absolute", "no-example"]
    assert rules(comparing(ABSOLUTE)) == []
    scope = {"mentions": ["law"]}
    assert rules(comparing(ABSOLUTE, examples=[], scope=scope)) == ["no-example"]
    limited = "When a child asks, prefer the reply that never speaks of prices."
    assert rules(comparing(limited, examples=[])) == ["no-example"]
    assert rules(comparing("Prefer the nevertheless calm reply.", examples=[])) == ["no-example"]


def test_a_topic_that_all_examples_mention_should_be_a_scope() -> None:
    about = "When the customer wants a refund, prefer the reply that says yes or no to it."
    examples = [example(prompt="Refund, please."), example("A", prompt="Where is my refund?")]
    (found,) = lint(comparing(about, examples=examples))
    assert (found.rule, found.severity) == ("topic-without-scope", Severity.ADVICE)
    assert "mentions: [refund]" in found.remedy
    assert rules(comparing(about, examples=examples, scope={"mentions": ["refund"]})) == []
    others = [example(prompt="Refund, please."), example("A", prompt="My money back!")]
    assert rules(comparing(about, examples=others)) == []


def test_placeholders_are_found_in_every_text_of_a_principle() -> None:
    (found,) = lint(constitution(principle(revise="TODO")))
    assert (found.rule, found.path) == ("placeholder", ("principles", 0, "revise"))
    assert rules(constitution(principle(critique="Find open TODO comments."))) == []
