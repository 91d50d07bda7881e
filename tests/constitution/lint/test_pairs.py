"""Near-duplicates and contradictions are found where they are, and not in shipped constitutions."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import pytest

from constitution import Constitution
from constitution.lint import lint
from constitution.lint.pairs import likeness
from constitution.loader import library_names
from tests.support.constitutions import comparing, constitution, principle, rules

THAT = "Prefer the reply that "

COPIES = [
    (
        THAT + "names a concrete next step.",
        "Choose the response which names one concrete NEXT step",
    ),
    (
        THAT + "does not help to spy on or track a person.",
        THAT + "doesn't help to track or spy on a person.",
    ),
    (
        THAT + "says what happens next, and when.",
        THAT + "says what happens next and when it happens.",
    ),
    (
        THAT + "owns the mistake over one that hides it.",
        THAT + "owns the mistakes over one that hides them.",
    ),
]
OPPOSITES = [
    ("Prefer the shorter answer to the customer.", THAT + "gives the customer more detail."),
    (THAT + "is concise.", "Prefer the more thorough reply."),
    (THAT + "gives medical advice.", THAT + "does not give medical advice."),
    (THAT + "uses jargon.", THAT + "avoids jargon."),
    (THAT + "is formal.", THAT + "is less formal."),
    (THAT + "is formal.", THAT + "uses casual language."),
    (
        THAT + "names steps over one that tells stories.",
        THAT + "tells stories over one that names steps.",
    ),
    (THAT + "explains the rule in plain words.", THAT + "explains the rule in technical words."),
]
NEITHER = [
    (THAT + "greets the person with a calm word.", THAT + "greets the person with a warm word."),
    (THAT + "keeps every fact of the source.", THAT + "keeps every name in the source."),
    (THAT + "asks for the invoice number.", THAT + "asks for the customer number."),
    (THAT + "is brief when asked about orders.", THAT + "is detailed when asked about law."),
    (THAT + "is formal.", THAT + "is not informal."),
    (THAT + "names a short way to the station.", THAT + "gives a detailed list of the risks."),
    (THAT + "is warm.", THAT + "is serious about money."),
    (
        "When the customer is rude, prefer the calm reply.",
        "When the customer is not rude, prefer the calm reply.",
    ),
    (THAT + "is concise over the detailed one.", THAT + "is concise about prices."),
    (THAT + "says what is certain.", THAT + "says what is uncertain."),
    (THAT + "refuses to help.", THAT + "helps with the refusal form."),
]


def between(texts: tuple[str, str]) -> list[str]:
    found = rules(comparing(*texts))
    return [rule for rule in found if rule in ("near-duplicate", "contradiction")]


@pytest.mark.parametrize("texts", COPIES)
def test_a_near_duplicate_is_found(texts: tuple[str, str]) -> None:
    assert between(texts) == between(texts[::-1]) == ["near-duplicate"]


@pytest.mark.parametrize("texts", OPPOSITES)
def test_opposites_are_found_in_either_order(texts: tuple[str, str]) -> None:
    assert between(texts) == between(texts[::-1]) == ["contradiction"]


@pytest.mark.parametrize("texts", NEITHER)
def test_different_ideas_in_similar_words_get_no_finding(texts: tuple[str, str]) -> None:
    assert between(texts) == between(texts[::-1]) == []


def test_a_contradiction_names_both_principles_and_the_words() -> None:
    (found,) = (f for f in lint(comparing(*OPPOSITES[1])) if f.rule == "contradiction")
    assert (
        found.message == "'rule-b' asks for the opposite of 'rule-a': 'concise' against 'thorough'"
    )
    assert found.path == ("principles", 1, "compare")


@pytest.mark.parametrize("texts", OPPOSITES)
def test_opposites_whose_scopes_exclude_each_other_are_not_a_contradiction(
    texts: tuple[str, str],
) -> None:
    one, other = (
        principle(name, compare=text, scope={"mentions": [word]}, examples=[])
        for name, text, word in zip(("calm", "warm"), texts, ("order", "law"), strict=True)
    )
    assert not {"contradiction", "near-duplicate"} & set(rules(constitution(one, other)))
    other["scope"] = {"mentions": ["law", "Order"]}
    assert "contradiction" in rules(constitution(one, other))


def test_each_principle_has_one_remark_however_many_it_resembles() -> None:
    found = rules(comparing(*[THAT + "names a date."] * 5))
    assert found.count("near-duplicate") == 4


def test_vague_texts_are_reported_once() -> None:
    assert set(rules(comparing("Be good.", "Be better."))) == {"vague-compare"}


def test_likeness_is_the_cosine_of_the_two_sets() -> None:
    assert likeness(0b0111, 0b1110) == pytest.approx(2 / 3)
    assert likeness(0b0001, 0b1111) == pytest.approx(1 / sqrt(4))
    assert likeness(0b01, 0b10) == 0
    assert likeness(0, 0b1) == 0
    assert likeness(0, 0) == 1


def test_the_threshold_fits_the_shipped_constitutions() -> None:
    """Within one constitution no principles are alike; two of different constitutions are."""
    shipped = {name: Constitution.load(name) for name in library_names()}
    for loaded in shipped.values():
        for one, other in combinations(loaded.principles, 2):
            assert between((one.compare, other.compare)) == []
    one = shipped["hhh"].principle("respects-privacy")
    other = shipped["harmless"].principle("keeps-private-lives-private")
    assert between((one.compare, other.compare)) == ["near-duplicate"]


@pytest.mark.parametrize(
    ("one", "other", "confusable"),
    [
        ("next-step", "next-steps", True),
        ("next-step", "next_step", True),
        ("next-step", "nextstep", True),
        ("next-step", "best-step", False),
        ("is-a", "i-a", False),
        ("no-harm", "harm", False),
    ],
)
def test_ids_that_are_easily_confused(one: str, other: str, confusable: bool) -> None:
    principles = principle(one, compare=THAT + "names dates."), principle(other)
    assert ("confusable-id" in rules(constitution(*principles))) is confusable
