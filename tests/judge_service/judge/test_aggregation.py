"""Aggregation into a soft label: numbers worked by hand, and symmetry under swapping."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.schema import Constitution, Message, Principle, Scope, Trait
from judge_service.engine import LabelLogprobs
from judge_service.judge.aggregation import (
    choose_principles,
    compare_orders,
    reweigh,
    spread,
    trait_probs,
    verdict,
    vote,
    weighted_prob,
    weighted_scores,
)
from judge_service.judge.label_probs import interpret
from judge_service.types import Comparison, Order, PrincipleScore, PrincipleVote, Read, Verdict


def chosen(
    principles: list[Principle], pair: Comparison, sample: int | None, seed: int
) -> tuple[Principle, ...]:
    responses = (pair.response_a, pair.response_b)
    return choose_principles(principles, pair.conversation, responses, sample, seed)


def principle(
    name: str, trait: str = "helpful", weight: float = 1.0, scope: Scope | None = None
) -> Principle:
    return Principle(
        id=name, trait=trait, weight=weight, compare="c", critique="c", revise="r", scope=scope
    )


def read(prob_first: float, order: Order, mass: float = 1.0) -> Read:
    logprobs = (math.log(prob_first * mass), math.log((1 - prob_first) * mass))
    result = interpret(LabelLogprobs(logprobs, 10, 0), order, "f" * 64)
    assert result is not None
    return result


def cast(
    ab: float, ba: float, name: str = "one", trait: str = "helpful", weight: float = 1.0
) -> PrincipleVote:
    """The vote of P(first) = ab in order AB and ba in order BA."""
    reads = [read(ab, Order.AB), read(ba, Order.BA)]
    result = vote(principle(name, trait, weight), reads, 0.1)
    assert result is not None
    return result


def test_a_vote_averages_the_orders() -> None:
    result = cast(0.9, 0.3)  # P(A): 0.9 and 0.7
    assert result.prob_a == pytest.approx(0.8)
    assert result.order_gap == pytest.approx(0.2)
    assert result.void_reads == 0


def test_pure_position_bias_averages_to_one_half() -> None:
    result = cast(0.9, 0.9)
    assert result.prob_a == pytest.approx(0.5)
    assert result.order_gap == pytest.approx(0.8)
    assert compare_orders([result], {}) == (False, pytest.approx(0.8))


def test_an_order_with_void_reads_only_leaves_no_vote() -> None:
    """The judge prefers the first place: .9 in either order, so .5 in both, and never .9."""
    void = read(0.9, Order.BA, mass=0.05)
    assert vote(principle("one"), [read(0.9, Order.AB), void], 0.1) is None
    assert vote(principle("one"), [read(0.9, Order.AB), None], 0.1) is None
    both = vote(principle("one"), [read(0.9, Order.AB), read(0.9, Order.BA)], 0.1)
    assert both is not None
    assert both.prob_a == pytest.approx(0.5)


def test_a_void_read_is_counted_where_its_order_has_another_one() -> None:
    reads = [read(0.9, Order.AB), read(0.3, Order.BA, mass=0.05), read(0.3, Order.BA)]
    result = vote(principle("one"), reads, 0.1)
    assert result is not None
    assert result.prob_a == pytest.approx(0.8)
    assert result.void_reads == 1


def test_one_order_is_enough_where_one_was_asked() -> None:
    result = vote(principle("one"), [read(0.9, Order.AB)], 0.1, orders=(Order.AB,))
    assert result is not None
    assert result.prob_a == pytest.approx(0.9)
    assert result.order_gap is None
    assert compare_orders([result], {}) == (None, None)


def test_a_principle_with_only_void_reads_has_no_vote() -> None:
    assert vote(principle("one"), [None, read(0.3, Order.BA, mass=0.05)], 0.1) is None


def test_principle_weight_times_trait_weight() -> None:
    votes = [
        cast(0.9, 0.1, "a", "helpful", 2.0),  # p = 0.9, weight 2 * 1
        cast(0.3, 0.7, "b", "honest", 1.0),  # p = 0.3, weight 1 * 4
    ]
    assert weighted_prob(votes, {"helpful": 1.0, "honest": 4.0}) == pytest.approx(3.0 / 6.0)


def test_a_trait_s_probability_ignores_the_other_traits() -> None:
    votes = [
        cast(0.9, 0.1, "a", "helpful", 2.0),
        cast(0.6, 0.4, "b", "helpful", 1.0),
        cast(0.2, 0.8, "c", "honest", 9.0),
    ]
    assert trait_probs(votes) == {
        "helpful": pytest.approx((2 * 0.9 + 0.6) / 3),
        "honest": pytest.approx(0.2),
    }


def test_the_label_is_the_mean_of_its_traits_by_their_label_weights() -> None:
    rules = Constitution.load("customer_support")
    votes = [
        cast(0.1 + 0.08 * i, 0.5, p.id, p.trait, p.weight) for i, p in enumerate(rules.principles)
    ]
    weights, traits = rules.label_weights, trait_probs(votes)
    mean = sum(weights[t] * traits[t] for t in traits) / sum(weights.values())
    assert weighted_prob(votes, rules.trait_weights) == pytest.approx(mean, abs=1e-12)


def test_orders_that_name_the_same_response_are_consistent() -> None:
    assert compare_orders([cast(0.9, 0.4)], {}) == (True, pytest.approx(0.3))


def test_consistency_weighs_the_principles_as_the_label_does() -> None:
    votes = [cast(0.9, 0.9, "a", "helpful"), cast(0.8, 0.2, "b", "honest")]
    # P(A) by AB: (0.9 + 0.8 t) / (1 + t), by BA: (0.1 + 0.8 t) / (1 + t)
    assert compare_orders(votes, {"honest": 1.0}) == (False, pytest.approx(0.4))
    assert compare_orders(votes, {"honest": 3.0}) == (True, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("prob", "margin", "expected"),
    [
        (0.5, 0.0, Verdict.TIE),
        (0.500001, 0.0, Verdict.A),
        (0.499999, 0.0, Verdict.B),
        (0.54, 0.05, Verdict.TIE),
        (0.46, 0.05, Verdict.TIE),
        (0.56, 0.05, Verdict.A),
    ],
)
def test_the_verdict_follows_the_margin(prob: float, margin: float, expected: Verdict) -> None:
    assert verdict(prob, margin) is expected


PROB = st.floats(0.001, 0.999)
VOTES = st.lists(
    st.tuples(PROB, PROB, st.sampled_from(["helpful", "honest"]), st.floats(0.01, 100)),
    min_size=1,
    max_size=6,
)


@given(VOTES)
def test_swapping_the_responses_gives_one_minus_p(
    rows: list[tuple[float, float, str, float]],
) -> None:
    weights = {"helpful": 1.0, "honest": 2.5}
    here = [cast(ab, ba, "p", trait, w) for ab, ba, trait, w in rows]
    swapped = [cast(ba, ab, "p", trait, w) for ab, ba, trait, w in rows]
    assert weighted_prob(here, weights) + weighted_prob(swapped, weights) == pytest.approx(
        1.0, abs=1e-12
    )
    for trait, prob in trait_probs(here).items():
        assert prob + trait_probs(swapped)[trait] == pytest.approx(1.0, abs=1e-12)
    assert compare_orders(here, weights)[1] == pytest.approx(
        compare_orders(swapped, weights)[1], abs=1e-12
    )


def comparison(a: str = "yes", b: str = "no", name: str = "1") -> Comparison:
    return Comparison(name, (Message(role="user", content="May I?"),), a, b)


def test_a_scoped_principle_is_left_out_where_it_does_not_apply() -> None:
    always, never = principle("always"), principle("never", scope=Scope(mentions=("refund",)))
    assert chosen([always, never], comparison(), None, 0) == (always,)


@given(st.text(), st.text(), st.integers())
def test_a_sample_does_not_depend_on_which_response_is_a(a: str, b: str, seed: int) -> None:
    many = [principle(f"p{i}") for i in range(12)]
    one = chosen(many, comparison(a, b), 3, seed)
    assert one == chosen(many, comparison(b, a, name="2"), 3, seed)
    assert len({p.id for p in one}) == 3


def test_samples_differ_with_seed_and_content() -> None:
    many = [principle(f"p{i}") for i in range(12)]
    drawn = {chosen(many, comparison(), 3, seed) for seed in range(20)}
    drawn_by_content = {chosen(many, comparison(f"{i}"), 3, 0) for i in range(20)}
    assert len(drawn) > 10
    assert len(drawn_by_content) > 10


def test_with_one_principle_the_spread_is_half_the_gap_of_the_orders() -> None:
    assert spread([cast(0.9, 0.3)], {}) == pytest.approx(0.1)  # P(A): 0.9 and 0.7


def test_the_spread_weighs_principles_as_the_label_does() -> None:
    votes = [cast(0.8, 0.2, "one", weight=3.0), cast(0.4, 0.6, "two")]  # P(A) 0.8 and 0.4
    # mean 0.7; variance (3 * 0.1^2 + 1 * 0.3^2) / 4 = 0.03
    assert spread(votes, {"helpful": 2.0}) == pytest.approx(math.sqrt(0.03))


def test_reweighing_drops_votes_on_principles_that_are_gone() -> None:
    constitution = Constitution(
        name="n",
        version="1.0.0",
        traits={"kind": Trait()},
        principles=(principle("two", "kind", 5),),
    )
    votes = reweigh([cast(0.8, 0.2, "one"), cast(0.4, 0.6, "two")], constitution)
    assert [(v.principle_id, v.trait, v.weight, v.prob_a) for v in votes] == [
        ("two", "kind", 5.0, pytest.approx(0.4))
    ]


def test_scores_are_weighted_as_labels_are() -> None:
    scores = [
        PrincipleScore("a", "helpful", 1.0, 0.5, (), 1.0, ""),
        PrincipleScore("b", "honest", 2.0, -0.5, (), 1.0, ""),
    ]
    overall, traits = weighted_scores(scores, {"helpful": 2.0, "honest": 3.0})
    assert overall == pytest.approx((2 * 0.5 - 6 * 0.5) / 8)
    assert traits == {"helpful": 0.5, "honest": -0.5}
