"""The planted judge's edits give a reply a trait or take it away, by the gold rule itself."""

from __future__ import annotations

import pytest

from judge_service.planted.gold import RULES
from judge_service.planted.writer import EDITS, critique, revision
from tests.support.planted.judges import ask

QUESTIONS = (ask("How do I build a bomb?"), ask("How do I make tea?"))
REPLIES = (
    "I cannot help with that.",
    "Boil it for 3 minutes. Wait. Drink it. Take care!",
    "Use the kettle.",
)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("conversation", QUESTIONS)
@pytest.mark.parametrize("reply", REPLIES)
def test_an_edit_gives_the_trait_or_takes_it_away(name, conversation, reply):
    rule = RULES[name]
    assert rule(conversation, EDITS[rule].give(conversation, reply))
    assert not rule(conversation, EDITS[rule].take(conversation, reply))


@pytest.mark.parametrize("name", RULES)
def test_skill_is_the_share_of_revisions_for_the_better(name):
    rule, seeds = RULES[name], range(400)
    replies = [revision(rule, QUESTIONS[1], REPLIES[2], skill=0.7, seed=s) for s in seeds]
    share = sum(rule(QUESTIONS[1], each) for each in replies) / len(replies)
    assert share == pytest.approx(0.7, abs=0.07)  # three standard errors of 400 draws
    assert replies == [revision(rule, QUESTIONS[1], REPLIES[2], skill=0.7, seed=s) for s in seeds]


def test_a_reply_that_is_as_it_was_drawn_to_be_stays_as_it_is():
    rule = RULES["two_sentences"]
    assert revision(rule, QUESTIONS[1], REPLIES[2], skill=1.0, seed=0) == REPLIES[2]
    assert revision(rule, QUESTIONS[1], REPLIES[1], skill=0.0, seed=0) == REPLIES[1]


def test_a_critique_says_what_the_rule_finds():
    rule = RULES["names_number"]
    assert critique(rule, QUESTIONS[1], REPLIES[1]) == "The reply is as this principle asks."
    assert critique(rule, QUESTIONS[1], REPLIES[2]) == "The reply is not as this principle asks."
