"""Ablation of principles, worked by hand, and independent of which response is A."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Message, Scope
from rlaif.constitution_tools.ablate import (
    Redundant,
    VoteTable,
    ablate,
    accuracy,
    correct,
    most_redundant,
    pooled,
    redundancy,
    tabulate,
)
from rlaif.labels.calibrate import GoldPair
from tests.support.feedback.builders import label, make_constitution, pair, principle

CONSTITUTION = make_constitution(
    principle("p"), principle("q"), principle("r", scope=Scope(mentions=("refund",)))
)
NAN = math.nan


def table(
    probs: list[list[float]], right: list[float] | None = None, **values: object
) -> VoteTable:
    n, k = len(probs), len(probs[0])
    made: dict[str, object] = {
        "principles": tuple("pqrst"[:k]),
        "weights": np.ones(k),
        "probs": np.array(probs),
        "order_gaps": np.full((n, k), 0.2),
        "prompts": tuple(f"prompt {i}" for i in range(n)),
        "right": np.array(right if right is not None else [NAN] * n),
    }
    return VoteTable(**{**made, **values})  # type: ignore[arg-type]


def gold(chosen: str, rejected: str, id: str = "g", prompt: str = "Hello?") -> GoldPair:
    return GoldPair(
        id=id, prompt=(Message(role="user", content=prompt),), chosen=chosen, rejected=rejected
    )


# ── the table ────────────────────────────────────────────────────────────────────────────────


def test_votes_are_in_the_constitutions_order_and_missing_votes_are_nan() -> None:
    weighted = make_constitution(
        principle("p", weight=2.0), *CONSTITUTION.principles[1:], helpful=3.0
    )
    found = tabulate([label(pair(), weighted, {"q": (0.4, 0.2), "p": (0.9, 0.9)})], weighted)
    assert found.principles == ("p", "q", "r")
    assert found.weights.tolist() == [6.0, 3.0, 3.0]
    assert found.probs[0, :2] == pytest.approx([0.9, 0.3])
    assert np.isnan(found.probs[0, 2])
    assert found.order_gaps[0, :2] == pytest.approx([0.0, 0.2])


def test_labels_of_another_constitution_are_left_out() -> None:
    other = make_constitution(principle("p"))
    labels = [
        label(pair(), CONSTITUTION, {"p": (0.9, 0.9)}),
        label(pair(), other, {"p": (0.9, 0.9)}),
    ]
    assert tabulate(labels, CONSTITUTION).labels == 1
    assert tabulate(labels[1:], CONSTITUTION).labels == 0


@pytest.mark.parametrize("prob", [0.9, 0.1])
@pytest.mark.parametrize(
    ("pairs", "right"),
    [
        ([gold("one", "two")], 1.0),
        ([gold("two", "one")], 0.0),
        ([gold(" one\n", "two")], 1.0),
        ([gold("one", "two", id="l", prompt="Other words")], 1.0),
        ([gold("one", "two", prompt="Another question")], NAN),
        ([gold("one", "three", id="l")], NAN),
        ([], NAN),
    ],
)
def test_gold_is_matched_by_texts_or_by_id_and_gives_the_right_response(
    prob: float, pairs: list[GoldPair], right: float
) -> None:
    labels = [label(pair("l", a="one", b="two"), CONSTITUTION, {"p": (prob, prob)})]
    found = tabulate(labels, CONSTITUTION, pairs).right[0]
    assert found == right or (np.isnan(found) and math.isnan(right))


# ── one principle ────────────────────────────────────────────────────────────────────────────


def test_pooling_is_the_judges_weighted_mean_over_the_votes_cast() -> None:
    probs = np.array([[0.9, 0.3], [NAN, 0.3], [NAN, NAN]])
    found = pooled(probs, np.array([3.0, 1.0]))
    assert found[:2] == pytest.approx([0.75, 0.3])
    assert np.isnan(found[2])


def test_a_principle_decides_labels_that_flip_or_disappear_without_it() -> None:
    found = ablate(
        table(
            [
                [0.9, 0.3],  # 0.6: without p 0.3, flips; without q 0.9, stays
                [0.9, 0.8],  # stays either way
                [0.7, NAN],  # only p
                [NAN, 0.4],  # only q
            ]
        )
    )
    p, q = found
    assert (p.votes, p.decides) == (0.75, 0.5)
    assert (q.votes, q.decides) == (0.75, 0.25)
    assert p.agrees is not None
    assert (p.agrees.value, p.agrees.n) == (0.5, 2)
    assert p.strength == pytest.approx((0.4 + 0.4 + 0.2) / 3)
    assert p.order_gap == pytest.approx(0.2)
    assert p.alone is None
    assert p.drop is None


def test_gold_gives_the_accuracy_of_a_principle_alone_and_the_loss_without_it() -> None:
    found = table(
        [[0.9, 0.3], [0.9, 0.3], [0.2, 0.4], [0.5, 0.1]],
        right=[1.0, 0.0, 0.0, NAN],
    )
    p, q = ablate(found)
    assert p.alone is not None
    assert p.drop is not None
    assert q.drop is not None
    assert p.alone.value == pytest.approx(2 / 3)  # 1, 0, 1
    # together 0.6, 0.6, 0.3 → 1, 0, 1; q alone → 0, 1, 1; p alone → 1, 0, 1
    assert p.drop.value == pytest.approx(0.0)
    assert q.drop.value == pytest.approx(0.0)
    overall = accuracy(found)
    assert overall is not None
    assert (overall.value, overall.n) == (pytest.approx(2 / 3), 3)


def test_an_even_vote_is_half_right() -> None:
    found = correct(np.array([0.5, 0.7, 0.7, NAN, 0.7]), np.array([1.0, 1.0, 0.0, 1.0, NAN]))
    assert found[:3].tolist() == [0.5, 1.0, 0.0]
    assert np.isnan(found[3:]).all()


def test_labels_of_one_prompt_count_as_one() -> None:
    probs, right = [[0.9, 0.9], [0.9, 0.9], [0.9, 0.9]], [1.0, 0.0, 1.0]
    found = accuracy(table(probs, right, prompts=("same", "same", "other")))
    assert found is not None
    assert (found.value, found.n) == (0.75, 2)


# ── two principles ───────────────────────────────────────────────────────────────────────────


def test_redundancy_by_hand() -> None:
    # x: p 0.4, 0.2; q 0.3, -0.1 → (0.12 - 0.02) / √(0.20 · 0.10) = 0.1 / 0.141421
    r = redundancy(np.array([[0.9, 0.8], [0.7, 0.4]]))
    assert r[0, 1] == pytest.approx(0.1 / math.sqrt(0.02))
    assert r.diagonal() == pytest.approx([1.0, 1.0])


def test_only_labels_with_both_votes_count_and_without_any_r_is_nan() -> None:
    probs = [[0.9, 0.9, NAN], [NAN, 0.1, NAN], [0.8, 0.8, NAN], [NAN, NAN, 0.3]]
    r = redundancy(np.array(probs))
    assert r[0, 1] == pytest.approx(1.0)
    assert np.isnan(r[0, 2])
    assert most_redundant(table(probs)) == (Redundant("p", "q", pytest.approx(1.0), 2),)


@given(
    st.lists(
        st.lists(st.one_of(st.floats(0, 1), st.just(NAN)), min_size=3, max_size=3),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_nothing_depends_on_which_response_is_a(
    probs: list[list[float]], data: st.DataObject
) -> None:
    """Swapping A and B turns p into 1 - p and swaps the right answer."""
    right = data.draw(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=len(probs), max_size=len(probs))
    )
    swaps = np.array(data.draw(st.lists(st.booleans(), min_size=len(probs), max_size=len(probs))))
    one = table(probs, right)
    other = table(
        np.where(swaps[:, None], 1 - one.probs, one.probs).tolist(),
        np.where(swaps, 1 - one.right, one.right).tolist(),
    )
    np.testing.assert_allclose(redundancy(one.probs), redundancy(other.probs), atol=1e-9)
    uneven = np.abs(pooled(one.probs, one.weights) - 0.5) > 1e-9
    np.testing.assert_array_equal(
        correct(pooled(one.probs, one.weights), one.right)[uneven],
        correct(pooled(other.probs, other.weights), other.right)[uneven],
    )


def test_equal_matrices_give_equal_files(tmp_path: Path) -> None:
    from rlaif.constitution_tools.figures import draw_redundancy

    r = redundancy(np.array([[0.9, 0.8, NAN], [0.7, 0.4, NAN]]))
    for name in ("one.svg", "two.svg"):
        draw_redundancy(("polite", "brief", "kind"), r, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert "polite" in drawn
    assert "0.71" in drawn
