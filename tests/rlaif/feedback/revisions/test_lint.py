"""The lint of lessons finds what a revision must not have, and leaves near misses alone."""

from __future__ import annotations

import pytest

from rlaif.feedback.revisions.lint import (
    CUT_TEXT,
    NEAR_COPY,
    PREAMBLE,
    has_preamble,
    looks_cut,
    problem,
    similarity,
)


@pytest.mark.parametrize(
    "text",
    [
        "Here is the revised reply:\n\nPlease see a dentist.",
        "Here\u2019s a revised version of the response that is kinder:\nPlease wait.",
        "Sure! Here's an improved answer: Please wait.",
        "Certainly, here is a rewritten reply:\nPlease wait.",
        "**Revised response:** Please wait.",
        "The new reply is:\n\nPlease wait.",
        "My revised answer\n\nPlease wait.",
        "Here is a rewrite of the reply:\nPlease wait.",
        "[Reply]\nPlease wait.",
        "Revision: Please wait.",
        '"Revised reply": Please wait.',
        "Critique: it is too short.",
    ],
)
def test_a_text_that_introduces_itself_has_a_preamble(text):
    assert has_preamble(text)


@pytest.mark.parametrize(
    "text",
    [
        "Here is a recipe: boil the eggs.",
        "Here are three tips:\n1. Sleep.",
        "A revised edition came out in 1990.",
        "The response of the heart: it beats faster.",
        "An updated version of the map hangs in the hall.",
        "Here is what the new law says: nothing.",
        "Sure, I can help. Which bike is it?",
        "Please see a dentist. Here is the revised plan: wait.",
        "Replying to a letter takes time.",
        "",
    ],
)
def test_a_reply_that_only_sounds_like_one_has_none(text):
    assert not has_preamble(text)


def test_similarity_by_hand():
    # three of four words each run alike: 2 * 3 / (4 + 4)
    assert similarity("boil the red eggs", "boil the white eggs") == pytest.approx(6 / 8)
    assert similarity("a b", "c d") == 0
    assert similarity("Boil THE eggs", " boil the\neggs ") == 1
    assert similarity("a b c", "c a b") == similarity("c a b", "a b c") == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    "text",
    [
        "You need flour, eggs and",
        "The steps are:",
        "First mix it,",
        "Ask your",
        "Wait \u2014",
        "```python\nprint(1)",
        "Use the (",
        "1. Mix it.\n2. Bake it.\n-",
    ],
)
def test_a_text_that_stops_in_the_middle_looks_cut(text):
    assert looks_cut(text)


@pytest.mark.parametrize(
    "text",
    [
        "You need flour and eggs.",
        "```python\nprint(1)\n```",
        "A list:\n- flour\n- eggs",
        "Take vitamin A.",
        "It costs 3 \u20ac",
        "Good luck :-)",
        "",
    ],
)
def test_a_text_that_ends_does_not(text):
    assert not looks_cut(text)


def test_the_first_problem_names_the_reason():
    original = "Whisky always works on a tooth."
    assert problem(original, "Here is the revised reply: see a dentist, and") == PREAMBLE
    assert problem(original, "whisky  always works on a tooth.") == NEAR_COPY
    assert problem(original, "See a dentist, and") == CUT_TEXT
    assert problem(original, "See a dentist.") == ""
