"""A round robin: who is compared with whom, by whose name, and what comes out."""

import math

import pytest

from rlaif.evaluation.anytime import StopRule
from rlaif.evaluation.comparison import EvaluationError, JudgedPair
from rlaif.evaluation.policies import PolicyRun, evaluate_by
from rlaif.evaluation.round_robin.tournament import also_round_robin, round_robin
from tests.rlaif.evaluation.test_comparison import PrefersWord, one_in_two, responses
from tests.rlaif.evaluation.test_policies import sample

STRENGTH = {"bad": -1.0, "fair": 0.0, "good": 0.7}


def run(name, word, count=12):
    return PolicyRun(name, [sample(f"p{i}", f"{word} {i}") for i in range(count)])


def by_strength(asked=None):
    """A judge that follows Bradley-Terry exactly."""

    def compare(questions):
        if asked is not None:
            asked.extend(question[0] for question in questions)
        return {
            id: JudgedPair(1 / (1 + math.exp(STRENGTH[b.split()[0]] - STRENGTH[a.split()[0]])))
            for id, _, a, b in questions
        }

    return compare


RUNS = (run("start", "fair"), run("dpo", "good"), run("ppo", "bad"))


def test_a_judge_that_follows_the_model_gives_its_strengths():
    table = round_robin(RUNS, by_strength())
    assert [row.name for row in table.policies] == ["dpo", "start", "ppo"]
    assert [row.strength.value for row in table.policies] == pytest.approx([0.7, 0.0, -1.0])


def test_every_two_policies_are_compared_and_the_start_by_the_names_of_an_evaluation():
    asked = []
    round_robin(RUNS, by_strength(asked))
    assert len(asked) == len(set(asked)) == 3 * 12
    assert {id.split("/")[0] for id in asked} == {"dpo", "ppo", "ppo and dpo"}


def test_comparisons_without_a_label_are_left_out():
    judge = by_strength()

    def compare(questions):
        return {
            id: JudgedPair(None, "void") if id.endswith("p0/0") else answer
            for id, answer in judge(questions).items()
        }

    assert round_robin(RUNS, compare).policies[0].strength.n == 11


def test_equal_responses_are_ties():
    table = round_robin((run("start", "fair"), run("copy", "fair")), by_strength())
    assert [row.strength.value for row in table.policies] == [0.0, 0.0]


def test_policies_on_different_prompts_are_refused():
    with pytest.raises(EvaluationError, match="ppo and dpo: the start has no response"):
        round_robin((RUNS[0], run("dpo", "good", 6), run("ppo", "bad")), by_strength())


def test_the_first_of_several_judges_plays_it_while_it_is_connected():
    events = []

    def in_turn():
        for name in ("first", "second"):
            events.append(f"{name} connected")
            yield by_strength(events)
            events.append(f"{name} closed")

    tables = []
    for _ in also_round_robin(in_turn(), RUNS, tables):
        events.append("evaluated")
    assert len(tables) == 1
    assert events[:2] == ["first connected", "evaluated"]
    assert events[-4:] == ["first closed", "second connected", "evaluated", "second closed"]
    assert len(events) == 6 + 3 * 12, "the second judges no round robin"


def test_every_judge_stops_for_itself():
    start, policy = responses("bad"), responses("good")
    result = evaluate_by(
        PolicyRun("start", start),
        [PolicyRun("dpo", policy)],
        [PrefersWord("good"), one_in_two],
        until=StopRule(),
    )
    judged = [column.policies[0].win_rate.n for column in result.judges]
    assert judged == [16, 100]
    assert result.policies[1].win_rate.n == 16, "a policy's own rates are the first judge's"
