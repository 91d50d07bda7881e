"""What an edit flips, worked by hand, and what it makes the judge read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Constitution, Scope
from judge_service.types import Judgment, Unjudged, UnjudgedReason
from rlaif.constitution_tools.diff import (
    OTHER_JUDGE,
    OTHER_LAW,
    DifferenceError,
    Fresh,
    Move,
    compare_labels,
    plan,
    questions,
    read_missing,
)
from rlaif.data.records import Preference
from tests.support.feedback.builders import judged, label, law, pair, principle
from tests.support.feedback.scripted_judge import ScriptedJudge

OLD = law(principle("p"), principle("q"))
PROBS = {"p": (0.8, 0.8), "q": (0.3, 0.3)}  # together 0.55


def only_move(old: Constitution, new: Constitution, **fresh: Judgment | Unjudged) -> Move:
    (move,) = compare_labels(plan([label(pair(), old, PROBS)], old, new), fresh).moves
    return move


def test_a_new_weight_moves_labels_without_a_read() -> None:
    new = law(principle("p"), principle("q", weight=3.0))
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


def test_only_the_reworded_principle_is_asked_and_takes_the_old_votes_place() -> None:
    new = law(principle("p"), principle("q", compare="Prefer otherwise."))
    planned = plan([label(pair("one"), OLD, PROBS), label(pair("two"), OLD, PROBS)], OLD, new)
    ((asked, pairs),) = questions(planned)
    assert [p.compare for p in asked.principles] == ["Prefer otherwise."]
    assert [p.id for p in pairs] == ["one", "two"]
    assert (planned.reads, planned.full_reads) == (4, 8)
    found = compare_labels(
        planned,
        {
            "one": judged(asked, {"q": (0.1, 0.1)}),
            "two": Unjudged(UnjudgedReason.LOW_LABEL_MASS, "it said something else"),
        },
    )
    (move,) = found.moves
    assert move.new.prob_a == pytest.approx(0.45)
    assert move.parts == pytest.approx({"p": 0.0, "q": -0.1})
    assert move.moved_by == "q"
    assert found.unlabeled == {"the new votes could not be read (low_label_mass)": 1}


def test_a_removed_principle_takes_its_part_away() -> None:
    move = only_move(OLD, law(principle("q")))
    assert move.new.prob_a == pytest.approx(0.3)
    assert move.parts == pytest.approx({"p": -0.15, "q": -0.1})


def test_a_wider_scope_asks_only_the_labels_it_now_reaches() -> None:
    old = law(principle("p"), principle("q", scope=Scope(mentions=("refund",))))
    new = law(principle("p"), principle("q", scope=Scope(mentions=("refund", "hello"))))
    labels = [
        label(pair("reached"), old, {"p": (0.8, 0.8)}),
        label(pair("known", prompt="My refund, hello?"), old, PROBS),
        label(pair("beside", prompt="Good morning."), old, {"p": (0.8, 0.8)}),
    ]
    ((asked, pairs),) = questions(plan(labels, old, new))
    assert [p.id for p in asked.principles] == ["q"]
    assert [p.id for p in pairs] == ["reached"]


def test_a_principle_that_a_sample_left_out_stays_left_out() -> None:
    new = law(principle("p", weight=2.0), principle("q", compare="Other words."), principle("r"))
    sampled = label(pair(), OLD, {"p": (0.8, 0.8)})
    ((asked, _),) = questions(plan([sampled], OLD, new))
    assert [p.id for p in asked.principles] == ["r"]


def test_labels_of_another_constitution_or_judge_are_counted_and_not_used() -> None:
    other_judge = label(pair("x"), OLD, PROBS)
    text = other_judge.receipt.replace('"test/1"', '"test/2"')
    labels = [
        label(pair("a"), OLD, PROBS),
        label(pair("b"), OLD, PROBS),
        label(pair("c"), law(principle("p")), {"p": (0.8, 0.8)}),
        other_judge.model_copy(update={"receipt": text}),
    ]
    planned = plan(labels, OLD, OLD)
    assert [found.pair.id for found in planned.labels] == ["a", "b"]
    assert planned.left_out == {OTHER_LAW: 1, OTHER_JUDGE: 1}
    assert plan(labels[2:3], OLD, OLD).judge is None
    assert len(plan(labels, OLD, OLD, limit=1).labels) == 1


def test_responses_keep_the_names_the_judge_knew_them_by() -> None:
    b_won = label(pair(a="the worse", b="the better"), OLD, {"p": (0.2, 0.2)})
    assert b_won.chosen_text == "the better"
    (found,) = plan([b_won], OLD, OLD).labels
    assert (found.pair.response_a, found.pair.response_b) == ("the worse", "the better")


def test_a_label_that_no_principle_is_left_for_is_told() -> None:
    new = law(principle("q", scope=Scope(mentions=("refund",))))
    found = compare_labels(plan([label(pair(), OLD, PROBS)], OLD, new), {})
    assert found.moves == ()
    assert sum(found.unlabeled.values()) == 1
    assert found.flip_share is None
    assert found.move_quantiles is None


def ten_labels() -> list[Preference]:
    """p says 0.8 to all, q from 0.05 to 0.5: only p removed flips all but the last."""
    return [
        label(pair(f"l{i}", prompt=f"Question {i}"), OLD, {"p": (0.8, 0.8), "q": (q, q)})
        for i, q in enumerate([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.44, 0.5])
    ]


def test_flips_come_with_their_interval_the_most_confident_first() -> None:
    found = compare_labels(plan(ten_labels(), OLD, law(principle("q"))), {})
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
    new = law(*(principle(f"p{i}", weight=w) for i, w in enumerate(weights[1:], start=1)))
    old = law(*(principle(f"p{i}") for i in range(3)))
    stored = label(pair(), old, {f"p{i}": p for i, p in enumerate(probs)})
    (move,) = compare_labels(plan([stored], old, new), {}).moves
    assert sum(move.parts.values()) == pytest.approx(move.delta, abs=1e-9)


def test_an_edit_that_changes_nothing_flips_nothing() -> None:
    found = compare_labels(plan(ten_labels(), OLD, OLD), {})
    assert found.flips == ()
    assert all(move.delta == 0 for move in found.moves)


def test_another_judge_than_the_labels_own_is_refused(tmp_path) -> None:
    new = law(principle("p"), principle("q", compare="Prefer otherwise."))
    planned = plan([label(pair(), OLD, PROBS)], OLD, new)
    with pytest.raises(DifferenceError, match=r"their model is fake, the server's scripted"):
        read_missing(planned, ScriptedJudge(), tmp_path / "journal.jsonl")
    assert read_missing(plan([], OLD, new), ScriptedJudge(), tmp_path / "none") == Fresh()
