"""Each alarm at a history made for it, just over and just under its threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.training.alarms import WATCHED, active_alarms, shortened


def history(**series):
    """One dict per step; None where a metric was not logged."""
    steps = max(len(values) for values in series.values())
    return [{name: values[i] for name, values in series.items()} for i in range(steps)]


def names(found):
    return [alarm.name for alarm in active_alarms(found)]


def test_nothing_rings_at_nothing_and_where_nothing_moves():
    assert names([]) == []
    assert names([{}] * 50) == []
    still = {name: [0.5] * 60 for name in WATCHED} | {"text_nll_rise": [0.0] * 60}
    assert names(history(**still)) == []
    assert names(history(**{name: [None] * 60 for name in WATCHED})) == []


@pytest.mark.parametrize(
    ("name", "quiet", "loud", "reported"),
    [
        (
            "kl_over_ceiling",
            history(kl_k1=[2.0, 900.0, 24.0, 24.0, 25.0, 25.0, 26.0]),
            history(kl_k1=[2.0, 24.0, 24.0, 25.0, 26.0, 27.0]),
            "kl_k1 is 25.2 nats",
        ),
        (
            "eos_rate_falling",
            history(eos_rate=[0.9] * 5 + [0.7] * 5),
            history(eos_rate=[0.9] * 5 + [0.65] * 5),
            "only 65% of the responses have an end token, 90% had",
        ),
        (
            "diversity_falling",
            history(distinct_2=[0.8] * 5 + [0.1] * 4),  # the two ends still overlap
            history(distinct_2=[0.8] * 5 + [0.5] * 5),
            "from 0.80 to 0.50",
        ),
        (
            "length_grows_with_score",
            history(response_length=list(range(20, 50)), score=[1.0, -1.0] * 15),
            history(response_length=list(range(20, 50)), score=list(range(30))),
            "from 22 to 47 tokens and their score with them (r = 1.00)",
        ),
        (
            "nothing_trained",
            history(masked=[16.0, 15.0], eos_rate=[0.0, 1 / 16]),
            history(masked=[16.0], eos_rate=[0.0]),
            "all 16 responses were cut off, and truncated=mask leaves them out of the loss",
        ),
        (
            "scores_parting",
            history(score=[0.0, 1, 3], judge_score=[0.5, 0.6, 0.4], rollback=[0.0, 0.0, 0.0]),
            history(score=[0.0, 1, 3], judge_score=[0.5, 0.6, 0.4], rollback=[0.0, 0.0, 1.0]),
            "from 1.00 to 3.00 while the judge's fell from 0.60 to 0.40",
        ),
        (
            "text_forgotten",
            history(text_nll=[3.03, None, 3.06], text_nll_rise=[0.01, None, 0.02]),
            history(text_nll=[3.03, 3.063, None], text_nll_rise=[0.01, 0.021, None]),
            "3.063 nats per token, 2.1% above the start's",
        ),
    ],
)
def test_each_rings_at_its_own_trouble_alone(name, quiet, loud, reported):
    assert names(quiet) == []
    assert names(loud) == [name]
    assert reported in active_alarms(loud)[0].text


def test_a_judge_evaluated_now_and_then_is_compared_with_the_scores_of_those_steps():
    judged = {"judge_score": [0.6, None, 0.5, None], "rollback": [0.0, None, 1.0, None]}
    assert names(history(score=[0.0, 9.0, 1.0, 9.0], **judged)) == ["scores_parting"]
    assert names(history(score=[1.0, 9.0, 0.0, 9.0], **judged)) == []


def test_an_alarm_stops_when_its_trouble_does():
    risen = history(kl_k1=[30.0] * 9)
    assert names(risen) == ["kl_over_ceiling"]
    assert names(risen + history(kl_k1=[1.0] * 5)) == []


METRICS = st.fixed_dictionaries(
    {}, optional={name: st.none() | st.sampled_from([0.0, 0.3, 1.0, 30.0]) for name in WATCHED}
)


@given(st.lists(METRICS, max_size=120), st.lists(METRICS, max_size=25))
def test_a_shortened_history_rings_as_the_whole_one_does(past, more):
    kept = shortened(past)
    assert active_alarms(kept) == active_alarms(past)
    assert active_alarms(kept + more) == active_alarms(past + more)
    assert active_alarms(shortened(kept + more)) == active_alarms(past + more)


def test_a_long_history_is_shortened_to_what_does_not_grow():
    past = history(**{name: [step % 7 for step in range(5_000)] for name in WATCHED})
    assert len(shortened(past)) < 50
    assert len(shortened(past * 2)) == len(shortened(past))
