"""Agreement of two judges, worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.evaluation.anytime import anytime_interval
from rlaif.evaluation.comparison import (
    NOT_ASKED,
    EvaluatorModel,
    ResponseComparison,
    judging_order,
)
from rlaif.evaluation.intervals import wilson
from rlaif.evaluation.judges.agreement import agreement, agreements, cohens_kappa
from rlaif.evaluation.judges.column import Labelers, column_of, with_judge_facts
from rlaif.evaluation.judges.worth import JudgeWorth

START = {(f"p{i}", 0): "start" for i in range(9)}


def column(name, probs, responses=None):
    own = [
        ResponseComparison(f"p{i}", 0, (responses or {}).get(i, "policy"), prob)
        for i, prob in enumerate(probs)
    ]
    return column_of(EvaluatorModel(name, name * 64, "c 1"), {"dpo": own}, START)


def test_cohens_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o .7, p_e .5, kappa .4
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    kappa, by_chance = cohens_kappa(pairs)
    assert by_chance == pytest.approx(0.5)
    assert kappa == pytest.approx(0.4)


def test_kappa_of_judges_that_never_differ_in_one_category_is_undefined():
    assert cohens_kappa([("a", "a")] * 3) == (None, 1.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_symmetric_and_at_most_one(pairs):
    kappa, by_chance = cohens_kappa(pairs)
    swapped = cohens_kappa([(b, a) for a, b in pairs])
    assert swapped[1] == pytest.approx(by_chance)
    if kappa is not None:
        assert kappa <= 1 + 1e-12
        assert swapped[0] == pytest.approx(kappa)


def test_agreement_counts_winners_over_pairs_that_both_judged():
    first = column("a", [0.9, 0.9, 0.1, 0.5, None, 0.7])
    second = column("b", [0.6, 0.2, 0.4, 0.5, 0.9, None])
    found = agreement(first, second)
    assert (found.pairs, found.same_winner.value) == (4, 0.75)
    assert (found.same_winner.low, found.same_winner.high) == wilson(0.75, 4)
    # a: 2 policy, 1 start, 1 neither; b: 1, 2, 1: p_e = (2·1 + 1·2 + 1·1)/16
    assert found.by_chance == pytest.approx(5 / 16)
    assert found.kappa == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))


def test_equal_responses_are_no_agreement():
    first = column("a", [0.5, 0.9], {0: "start"})
    second = column("b", [0.5, 0.1], {0: "start"})
    found = agreement(first, second)
    assert (found.pairs, found.same_winner.value) == (1, 0.0)
    assert first.policies[0].win_rate.value == 0.75, "in the win rate it is a tie"


def stopped_after(prompts, name, probs, policies=("dpo",)):
    """A column whose judge stopped after so many prompts, in the order of judging."""
    order = sorted(probs, key=judging_order)
    own = {
        policy: [
            ResponseComparison(id, 0, "policy", probs[id], look=1 + place // 16)
            if place < count
            else ResponseComparison(id, 0, "policy", None, NOT_ASKED)
            for place, id in enumerate(order)
        ]
        for policy, count in zip(policies, prompts, strict=True)
    }
    start = {(id, 0): "start" for id in order}
    return column_of(EvaluatorModel(name, name * 64, "c 1"), own, start)


def test_the_agreement_of_judges_that_stopped_early_has_an_anytime_interval():
    probs = {f"p{i}": 0.9 for i in range(40)}
    order = sorted(probs, key=judging_order)
    other = probs | {order[1]: 0.1, order[3]: 0.2, order[20]: 0.1}
    found = agreement(stopped_after([32], "a", probs), stopped_after([16], "b", other))
    same = [1.0, 0.0, 1.0, 0.0] + [1.0] * 12
    assert found.pairs == 16
    assert found.same_winner.value == 14 / 16
    assert (found.same_winner.low, found.same_winner.high) == anytime_interval(same)


def test_the_agreement_counts_prompts_that_every_policy_was_judged_on():
    """After the first stop the mean would be over other policies, and no interval would hold."""
    probs = {f"p{i}": 0.9 for i in range(40)}
    judges = [stopped_after([16, 32], name, probs, ("dpo", "sft")) for name in "ab"]
    found = agreement(*judges)
    assert (found.pairs, found.same_winner.n) == (32, 16)


def test_three_judges_have_three_agreements_and_strangers_none():
    judges = [column(name, [0.9, 0.1]) for name in "abc"]
    named = [(found.first, found.second) for found in agreements(judges)]
    assert named == [("a", "b"), ("a", "c"), ("b", "c")]
    assert agreement(column("a", [0.9, None]), column("b", [None, 0.9])) is None


def test_a_labeler_is_known_by_its_weights_whatever_its_name():
    columns = [column("a", [0.9]), column("b", [0.9])]
    known = with_judge_facts(columns, Labelers(frozenset({"a" * 64}), complete=True), ())
    assert [each.also_labeled for each in known] == [True, False]
    unknown = with_judge_facts(columns, Labelers(frozenset({"a" * 64}), complete=False), ())
    assert [each.also_labeled for each in unknown] == [True, None]


def test_columns_are_described_by_what_their_judge_is_worth():
    worth = JudgeWorth(judge="b", gold="g", n=9, accuracy=0.5, low=0.2, high=0.8, longer=0.5)
    known = with_judge_facts([column("a", [0.9]), column("b", [0.9])], Labelers(), [worth])
    assert [each.worth for each in known] == [(), (worth,)]
