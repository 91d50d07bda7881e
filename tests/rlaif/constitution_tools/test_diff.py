"""The labels that an edit flips, worked by hand, and the reads that it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Constitution, Scope
from judge_service.types import Judgment, Unjudged, UnjudgedReason
from rlaif.constitution_tools.diff import (
    OTHER_CONSTITUTION,
    OTHER_JUDGE,
    DifferenceError,
    Fresh,
    Move,
    compare_labels,
    missing_reads,
    plan,
    read_missing,
)
from rlaif.data.records import Preference
from tests.support.feedback.builders import judged, label, make_constitution, pair, principle
from tests.support.feedback.scripted_judge import ScriptedJudge

OLD = make_constitution(principle("p"), principle("q"))
PROBS = {"p": (0.8, 0.8), "q": (0.3, 0.3)}  # together 0.55


def only_move(old: Constitution, new: Constitution, **fresh: Judgment | Unjudged) -> Move:
    (move,) = compare_labels(plan([label(pair(), old, PROBS)], old, new), fresh).moves
    return move


def test_a_new_weight_moves_labels_without_a_read() -> None:
    new = make_constitution(principle("p"), principle("q", weight=3.0))
    planned = plan([label(pair(), OLD, PROBS)], OLD, new)
    assert planned.reads == 0
    assert planned.full_reads == 4
    (move,) = compare_labels(planned, {}).moves
    assert move.old.prob_a == pytest.approx(0.55)
    assert move.new.prob_a == pytest.approx((0.8 + 3 * 0.3) / 4)
    assert move.flips
    # p: 0.3 (1/4 - 1/2);  q: -0.2 (3/4 - 1/2)
    assert move.parts == pytest.approx({"p": -0.075, "q": -0.05})
    assert move.moved_by == "p"
    assert move.sureness == pytest.approx(0.05)


def test_only_the_reworded_principle_is_read_and_its_vote_replaces_the_old_one() -> None:
    new = make_constitution(principle("p"), principle("q", compare="Prefer otherwise."))
    planned = plan([label(pair("one"), OLD, PROBS), label(pair("two"), OLD, PROBS)], OLD, new)
    ((part, pairs),) = missing_reads(planned)
    assert [p.compare for p in part.principles] == ["Prefer otherwise."]
    assert [p.id for p in pairs] == ["one", "two"]
    assert (planned.reads, planned.full_reads) == (4, 8)
    found = compare_labels(
        planned,
        {
            "one": judged(part, {"q": (0.1, 0.1)}),
            "two": Unjudged(UnjudgedReason.LOW_LABEL_MASS, "it said something else"),
        },
    )
    (move,) = found.moves
    assert move.new.prob_a == pytest.approx(0.45)
    assert move.parts == pytest.approx({"p": 0.0, "q": -0.1})
    assert move.moved_by == "q"
    assert found.unlabeled == {"the new votes could not be read (low_label_mass)": 1}


def test_removing_a_principle_removes_its_part() -> None:
    move = only_move(OLD, make_constitution(principle("q")))
    assert move.new.prob_a == pytest.approx(0.3)
    assert move.parts == pytest.approx({"p": -0.15, "q": -0.1})


def test_a_wider_scope_needs_reads_only_for_the_pairs_newly_in_scope() -> None:
    old = make_constitution(principle("p"), principle("q", scope=Scope(mentions=("refund",))))
    new = make_constitution(
        principle("p"), principle("q", scope=Scope(mentions=("refund", "hello")))
    )
    labels = [
        label(pair("reached"), old, {"p": (0.8, 0.8)}),
        label(pair("known", prompt="My refund, hello?"), old, PROBS),
        label(pair("beside", prompt="Good morning."), old, {"p": (0.8, 0.8)}),
    ]
    ((part, pairs),) = missing_reads(plan(labels, old, new))
    assert [p.id for p in part.principles] == ["q"]
    assert [p.id for p in pairs] == ["reached"]


def test_a_principle_outside_a_labels_sample_is_not_read() -> None:
    new = make_constitution(
        principle("p", weight=2.0), principle("q", compare="Other words."), principle("r")
    )
    sampled = label(pair(), OLD, {"p": (0.8, 0.8)})
    ((part, _),) = missing_reads(plan([sampled], OLD, new))
    assert [p.id for p in part.principles] == ["r"]


def test_labels_of_another_constitution_or_judge_are_counted_and_left_out() -> None:
    other_judge = label(pair("x"), OLD, PROBS)
    text = other_judge.receipt.replace('"test/1"', '"test/2"')
    labels = [
        label(pair("a"), OLD, PROBS),
        label(pair("b"), OLD, PROBS),
        label(pair("c"), make_constitution(principle("p")), {"p": (0.8, 0.8)}),
        other_judge.model_copy(update={"receipt": text}),
    ]
    planned = plan(labels, OLD, OLD)
    assert [planned_label.pair.id for planned_label in planned.labels] == ["a", "b"]
    assert planned.left_out == {OTHER_CONSTITUTION: 1, OTHER_JUDGE: 1}
    assert plan(labels[2:3], OLD, OLD).judge is None
    assert len(plan(labels, OLD, OLD, limit=1).labels) == 1


def test_responses_are_a_and_b_as_the_judge_read_them() -> None:
    b_won = label(pair(a="the worse", b="the better"), OLD, {"p": (0.2, 0.2)})
    assert b_won.chosen_text == "the better"
    (found,) = plan([b_won], OLD, OLD).labels
    assert (found.pair.response_a, found.pair.response_b) == ("the worse", "the better")


def test_a_label_without_principles_is_counted_as_unlabeled() -> None:
    new = make_constitution(principle("q", scope=Scope(mentions=("refund",))))
    found = compare_labels(plan([label(pair(), OLD, PROBS)], OLD, new), {})
    assert found.moves == ()
    assert sum(found.unlabeled.values()) == 1
    assert found.flip_share is None
    assert found.move_quantiles is None


def ten_labels() -> list[Preference]:
    """p votes 0.8 on all, q from 0.05 to 0.5: removing p flips those with 0.2 <= q < 0.5."""
    return [
        label(pair(f"l{i}", prompt=f"Question {i}"), OLD, {"p": (0.8, 0.8), "q": (q, q)})
        for i, q in enumerate([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.44, 0.5])
    ]


def test_flips_have_an_interval_and_come_most_confident_first() -> None:
    found = compare_labels(plan(ten_labels(), OLD, make_constitution(principle("q"))), {})
    # p ≥ ½ before where q ≥ 0.2: those flip, except q = ½
    assert [move.pair.id for move in found.flips] == ["l7", "l6", "l8", "l5", "l4", "l3"]
    assert found.flip_share is not None
    assert found.flip_share.value == pytest.approx(0.6)
    assert (found.flip_share.low, found.flip_share.high) == pytest.approx(
        (0.3127, 0.8318), abs=1e-4
    )
    # |Δp| = (0.8 - q)/2: 0.15, 0.18, 0.2, … 0.375
    assert found.move_quantiles == pytest.approx((0.2625, 0.35, 0.375))
    (trait,) = found.traits
    assert (trait.labels, trait.flips) == (10, 6)
    assert trait.mean_move == pytest.approx(0.263)


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
)
def test_the_parts_of_the_principles_add_up_to_the_move(
    probs: list[tuple[float, float]], weights: list[float]
) -> None:
    new = make_constitution(
        *(principle(f"p{i}", weight=w) for i, w in enumerate(weights[1:], start=1))
    )
    old = make_constitution(*(principle(f"p{i}") for i in range(3)))
    stored = label(pair(), old, {f"p{i}": p for i, p in enumerate(probs)})
    (move,) = compare_labels(plan([stored], old, new), {}).moves
    assert sum(move.parts.values()) == pytest.approx(move.delta, abs=1e-9)


def test_an_edit_that_changes_nothing_flips_nothing() -> None:
    found = compare_labels(plan(ten_labels(), OLD, OLD), {})
    assert found.flips == ()
    assert all(move.delta == 0 for move in found.moves)


def test_another_judge_than_that_of_the_labels_is_an_error(tmp_path) -> None:
    new = make_constitution(principle("p"), principle("q", compare="Prefer otherwise."))
    planned = plan([label(pair(), OLD, PROBS)], OLD, new)
    with pytest.raises(DifferenceError, match=r"their model is fake, the server's scripted"):
        read_missing(planned, ScriptedJudge(), tmp_path / "journal.jsonl")
    assert read_missing(plan([], OLD, new), ScriptedJudge(), tmp_path / "none") == Fresh()
