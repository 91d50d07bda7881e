"""A label under an edited constitution needs only the reads that the edit requires."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message, Scope
from judge_service.types import Order, PrincipleVote, Read, Verdict
from rlaif.labels.reaggregate import (
    changed_principles,
    keep_unchanged,
    rejudge,
    restrict_to,
    unanswered_principles,
)
from tests.support.feedback.constitutions import edited, make_constitution, principle

TALK = (Message(role="user", content="Where is my parcel?"),)
OLD = make_constitution(principle(0), principle(1), principle(2, trait="honest"))


def vote(number: int, ab: float, ba: float, weight: float = 1.0) -> PrincipleVote:
    """P(A) by order AB and by order BA."""

    def read(order: Order, prob_a: float) -> Read:
        prob = prob_a if order is Order.AB else 1.0 - prob_a
        return Read(order, -1.0, -1.0, prob, 0.9, 10, 0, "0" * 64)

    reads = (read(Order.AB, ab), read(Order.BA, ba))
    return PrincipleVote(f"p{number}", "helpful", weight, (ab + ba) / 2, abs(ab - ba), reads)


def test_only_new_ids_and_new_compare_texts_need_reads():
    new = make_constitution(
        principle(0, weight=3.0, trait="honest", critique="Why not?", scope={"mentions": ["x"]}),
        principle(1, compare="Which is kinder?"),
        principle(2, trait="honest", compare="  Which is better by rule 2?\n"),
        principle(3),
    )
    assert changed_principles(OLD, new) == ("p1", "p3")
    assert changed_principles(OLD, OLD) == ()


def test_a_principle_under_another_name_is_new():
    assert changed_principles(OLD, edited(OLD, 0, id="renamed")) == ("renamed",)


def test_a_wider_scope_makes_an_unchanged_principle_missing():
    assert [p.id for p in unanswered_principles(OLD, TALK, {"p0", "p2"})] == ["p1"]
    narrow = edited(OLD, 1, scope=Scope(excludes=("parcel",)))
    assert unanswered_principles(narrow, TALK, {"p0", "p2"}) == ()


def test_a_restricted_constitution_has_only_the_principles_and_their_traits():
    restricted = restrict_to(OLD, [OLD.principle("p2")])
    assert [p.id for p in restricted.principles] == ["p2"]
    assert list(restricted.traits) == ["honest"]
    assert restricted.digest != OLD.digest


def test_known_and_fresh_votes_have_the_weights_of_the_new_constitution():
    new = make_constitution(principle(0, weight=2.0), principle(2, trait="honest"), honest=3.0)
    found = rejudge([vote(0, 0.9, 0.7), vote(1, 0.0, 0.0)], [vote(2, 0.2, 0.4)], new, TALK)
    assert found is not None
    # (2·1·0.8 + 1·3·0.3) / (2 + 3) = 2.5 / 5
    assert abs(found.prob_a - 0.5) < 1e-12
    assert found.trait_probs == pytest.approx({"helpful": 0.8, "honest": 0.3})
    assert [(v.principle_id, v.trait, v.weight) for v in found.votes] == [
        ("p0", "helpful", 2.0),
        ("p2", "honest", 1.0),
    ]
    # by order: AB (2·0.9 + 3·0.2) / 5 = 0.48, BA (2·0.7 + 3·0.4) / 5 = 0.52
    assert abs(found.order_gap - 0.04) < 1e-12
    assert found.position_consistent is False


def test_a_fresh_vote_replaces_a_known_one():
    found = rejudge([vote(0, 0.9, 0.9)], [vote(0, 0.2, 0.2)], OLD, TALK)
    assert found is not None
    assert (found.prob_a, found.verdict) == (0.2, Verdict.B)


def test_votes_out_of_scope_are_dropped_and_without_votes_there_is_no_label():
    narrow = edited(OLD, 0, scope=Scope(mentions=("weather",)))
    assert rejudge([vote(0, 0.9, 0.9)], [], narrow, TALK) is None
    assert rejudge([], [], OLD, TALK) is None


def test_a_margin_makes_a_tie():
    found = rejudge([vote(0, 0.52, 0.52)], [], OLD, TALK, tie_margin=0.05)
    assert found is not None
    assert found.verdict is Verdict.TIE


def test_votes_of_changed_principles_are_not_kept():
    assert keep_unchanged([vote(0, 0.1, 0.1), vote(1, 0.1, 0.1)], {"p1"}) == (vote(0, 0.1, 0.1),)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.sets(st.integers(0, 2)))
def test_the_result_does_not_depend_on_which_votes_are_fresh(probs, fresh):
    votes = [vote(n, p, p / 2) for n, p in enumerate(probs)]
    known = [v for n, v in enumerate(votes) if n not in fresh]
    new = [votes[n] for n in fresh]
    assert rejudge(known, new, OLD, TALK) == rejudge(votes, [], OLD, TALK)
