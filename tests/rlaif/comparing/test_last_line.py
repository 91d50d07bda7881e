"""Each sentence that a comparison can end with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlaif.comparing.last_line import fraction, last_line
from rlaif.comparing.result import ArmResult, HeadToHead, MethodComparison, TrainedSeed
from rlaif.evaluation.intervals import Estimate

BETTER, LEVEL, WORSE = (0.55, 0.7), (0.45, 0.6), (0.3, 0.45)


def arm(name, interval, seconds=0.0, reward_seconds=0.0):
    low, high = interval
    rate = Estimate((low + high) / 2, low, high, 100)
    trained = (TrainedSeed(f"{name}-0", 0, 10, seconds, 1e4, 1.0),) if seconds else ()
    return ArmResult(
        name, (f"{name}-0",), {"judge": rate}, trainings=trained, reward_seconds=reward_seconds
    )


def met(first, second, interval):
    low, high = interval
    return HeadToHead(first, second, Estimate((low + high) / 2, low, high, 100), 3)


def line(*arms, pairs=(), **changes):
    start = ArmResult("start", ("start",))
    found = MethodComparison({}, (start, *arms), tuple(pairs), prompts=100, seeds=3)
    return last_line(replace(found, **changes))


def test_two_that_cannot_be_told_apart_and_the_time_of_one():
    pair = met("ppo", "dpo", LEVEL)
    dpo, ppo = arm("dpo", BETTER, seconds=20), arm("ppo", BETTER, seconds=70, reward_seconds=30)
    assert line(dpo, ppo, pairs=[pair]) == (
        "dpo and ppo cannot be told apart at this n (100 prompts, 3 seeds); dpo took a fifth of "
        "the time."
    )


def test_times_that_are_alike_are_not_named():
    said = line(arm("dpo", BETTER, 20), arm("ppo", BETTER, 25), pairs=[met("dpo", "ppo", LEVEL)])
    assert said == "dpo and ppo cannot be told apart at this n (100 prompts, 3 seeds)."


def test_one_that_beats_the_others_and_what_that_cost():
    arms = arm("sft", LEVEL, 10), arm("dpo", BETTER, 40)
    assert line(*arms, pairs=[met("dpo", "sft", BETTER)]) == (
        "dpo beats sft at this n (100 prompts, 3 seeds), and beats the start; it took 4.0 times as "
        "long as sft."
    )


def test_the_best_may_still_not_be_told_from_the_start():
    arms = arm("sft", WORSE), arm("dpo", LEVEL)
    assert line(*arms) == (
        "dpo beats sft at this n (100 prompts, 3 seeds), and cannot be told from the start."
    )


def test_level_arms_that_none_can_tell_from_the_start():
    two = line(arm("dpo", LEVEL), arm("ppo", LEVEL), pairs=[met("dpo", "ppo", LEVEL)])
    assert "; neither can be told from the start" in two
    pairs = [met("dpo", other, LEVEL) for other in ("ppo", "sft")]
    three = line(arm("dpo", LEVEL), arm("ppo", LEVEL), arm("sft", LEVEL), pairs=pairs)
    assert three.startswith("dpo, ppo and sft cannot be told apart")
    assert "; none of them can be told from the start" in three


def test_three_arms_of_which_two_are_level_and_one_is_beaten():
    arms = arm("dpo", (0.6, 0.8), 10), arm("ppo", BETTER, 30), arm("sft", LEVEL, 9)
    said = line(*arms, pairs=[met("dpo", "ppo", LEVEL), met("sft", "dpo", WORSE)])
    assert said == (
        "dpo and ppo cannot be told apart at this n (100 prompts, 3 seeds); dpo took a third of "
        "the time; dpo beats sft."
    )


def test_an_arm_that_the_start_beats_is_level_with_one_that_it_beats_too():
    said = line(arm("dpo", (0.2, 0.45)), arm("ppo", (0.1, 0.4)))
    assert said.startswith("dpo and ppo cannot be told apart")


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (BETTER, "beats the start"),
        (LEVEL, "cannot be told from the start"),
        (WORSE, "loses to the start"),
    ],
)
def test_one_arm_alone_is_compared_with_the_start(interval, said):
    assert line(arm("dpo", interval), seeds=1) == (f"dpo {said} at this n (100 prompts, one seed).")


def test_without_a_win_rate_nothing_is_told():
    assert line(ArmResult("dpo", ("dpo-0",))) == "No arm has a win rate, so nothing can be told."


def test_a_planted_judge_is_named_first():
    assert line(arm("dpo", BETTER), planted=True).startswith("Planted: dpo beats the start")


def test_fractions_are_words_up_to_a_tenth():
    said = [fraction(ratio) for ratio in (1.5, 1.7, 2.4, 5.2, 9.6, 20)]
    assert said == ["two thirds", "two thirds", "half", "a fifth", "a tenth", "5 %"]
