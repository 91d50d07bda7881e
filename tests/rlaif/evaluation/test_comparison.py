"""Judging in chunks until a rule is met: what is judged, in which order, and which intervals."""

import pytest

from rlaif.evaluation.anytime import StopRule, StopRuleError, anytime_interval, stop_rule
from rlaif.evaluation.comparison import (
    LOOK_EVERY,
    NOT_ASKED,
    JudgedPair,
    compare_until,
    judge_score,
    length_controlled,
    trait_win_rates,
    win_rate,
)
from rlaif.evaluation.policies import PolicyRun, evaluate
from tests.rlaif.evaluation.test_policies import sample

SETTLED = StopRule()


def responses(text, count=100, each=1):
    return [sample(f"p{i:03}", f"{text} {i} {j}", j) for i in range(count) for j in range(each)]


class PrefersWord:
    """Prefers the response that begins with `likes`, with P = 0.9, and counts what it is asked."""

    def __init__(self, likes="good"):
        self.likes = likes
        self.asked = []
        self.batches = []

    def __call__(self, questions):
        self.asked += [question[0] for question in questions]
        self.batches.append(len(questions))
        return {
            id: JudgedPair(prob, traits={"helpful": prob})
            for id, _, a, _ in questions
            for prob in [0.9 if a.startswith(self.likes) else 0.1]
        }


def one_in_two(questions):
    """A judge that prefers the policy ('good') on every other prompt."""
    return {
        id: JudgedPair(0.9 if a.startswith("good") == (int(id.split("/")[1][1:]) % 2 == 0) else 0.1)
        for id, _, a, _ in questions
    }


def test_judging_stops_at_the_first_look_that_is_clear():
    judge = PrefersWord()
    compared = compare_until(responses("good"), responses("bad"), judge, "dpo", SETTLED)
    assert judge.batches == [LOOK_EVERY]
    assert sum(c.prob is not None for c in compared) == LOOK_EVERY
    assert {c.reason for c in compared[LOOK_EVERY:]} == {NOT_ASKED}
    assert len(compared) == 100


def test_an_open_question_is_judged_to_the_end():
    compared = compare_until(responses("good"), responses("bad"), one_in_two, "dpo", SETTLED)
    assert all(c.prob is not None for c in compared)
    assert max(c.look for c in compared) == 7


def test_a_width_stops_when_the_interval_is_that_narrow():
    compared = compare_until(
        responses("good", 400), responses("bad", 400), one_in_two, "dpo", StopRule(0.3)
    )
    rate = win_rate(compared)
    assert rate.high - rate.low <= 0.3
    before = [c for c in compared if 0 < c.look < max(c.look for c in compared)]
    assert win_rate(before).high - win_rate(before).low > 0.3


def test_prompts_come_in_an_order_of_their_own_and_the_same_every_time():
    first, again, other = PrefersWord(), PrefersWord(), PrefersWord()
    policy = responses("good", each=2)
    start = responses("bad", each=2)
    compare_until(policy, start, first, "dpo", SETTLED)
    compare_until(policy[::-1], start, again, "dpo", SETTLED)
    compare_until(responses("good", each=2), start, other, "ppo", SETTLED)

    def prompts(judge):
        return {id.split("/")[1] for id in judge.asked}

    assert prompts(first) == prompts(again) == prompts(other)
    assert prompts(first) != {f"p{i:03}" for i in range(LOOK_EVERY)}, "not the order of the file"
    assert len(first.asked) == 2 * LOOK_EVERY, "all responses of a prompt are judged together"


def test_every_rate_has_the_anytime_interval_and_equal_length_has_none():
    compared = compare_until(responses("good"), responses("evil"), one_in_two, "dpo", SETTLED)
    values = [float(c.prob > 0.5) for c in compared]
    assert (win_rate(compared).low, win_rate(compared).high) == anytime_interval(values)
    probs = [c.prob for c in compared]
    assert (judge_score(compared).low, judge_score(compared).high) == anytime_interval(probs)
    at_equal_length = length_controlled(compared)
    assert (at_equal_length.value, at_equal_length.low) == (pytest.approx(0.5), None)


def test_equal_responses_take_their_turn_as_ties_by_every_trait():
    """Were they all counted at once, the few judged prompts would drown in ties."""
    start = responses("bad", 200)
    policy = [
        sample(s.prompt.id, s.response if i % 4 else f"good {i}") for i, s in enumerate(start)
    ]
    compared = compare_until(policy, start, PrefersWord(), "dpo", SETTLED)
    judged = [c for c in compared if c.prob is not None]
    assert len(judged) < 200
    ties = [c for c in judged if c.prob == 0.5]
    assert len(ties) == pytest.approx(0.75 * len(judged), rel=0.25)
    assert trait_win_rates(compared)["helpful"].n == len(judged)
    assert all(c.traits == {"helpful": 0.5} for c in ties)


def test_an_evaluation_records_the_rule():
    result = evaluate(
        PolicyRun("start", responses("bad")),
        [PolicyRun("dpo", responses("good"))],
        PrefersWord(),
        until=StopRule(0.5),
    )
    assert result.until == "0.5"
    assert result.policies[1].unjudged[NOT_ASKED] > 0
    assert result.policies[1].win_rate.low > 0.5


def test_without_a_rule_intervals_are_those_of_fixed_n():
    result = evaluate(
        PolicyRun("start", responses("bad")), [PolicyRun("dpo", responses("good"))], PrefersWord()
    )
    assert result.policies[1].win_rate.low == pytest.approx(0.963, abs=1e-3)  # Wilson, 100 of 100


@pytest.mark.parametrize("text", ["Settled", "0", "1", "-0.1", "nan", "20 %", True])
def test_a_rule_that_cannot_be_read_says_what_to_write(text):
    with pytest.raises(StopRuleError, match=r"write settled, .* such as 0\.2"):
        StopRule.parse(text)


def test_rules_are_read():
    assert StopRule.parse("settled") == SETTLED
    assert StopRule.parse("0.2") == StopRule.parse(0.2) == StopRule(0.2)
    assert stop_rule("", human=True, round_robin=True) is None
    assert stop_rule("settled", human=False, round_robin=False) == SETTLED


@pytest.mark.parametrize("other", ["human", "round_robin"])
def test_rules_are_refused_beside_intervals_of_fixed_n(other):
    asked = {"human": False, "round_robin": False} | {other: True}
    with pytest.raises(StopRuleError, match=f"until and {other} exclude each other"):
        stop_rule("settled", **asked)
