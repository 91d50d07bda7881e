"""When rounds end, which one is kept, and what the reward model only believes: by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.rounds.result import (
    RoundResult,
    RoundsSummary,
    WinsByScore,
    decide,
    wins_by_score,
)
from rlaif.report.rounds import round_sentence, rounds_plots, rounds_sentences, rounds_table

GAIN, NO_GAIN = Estimate(0.7, 0.6, 0.8, 76), Estimate(0.55, 0.44, 0.66, 76)
ROUND = RoundResult(
    number=1, policy="round-01/dpo", judges=("second", "judge"), against_before=GAIN,
    against_start=(GAIN, NO_GAIN), reward_gain=None, kl=None, wins=WinsByScore(), gold=None,
    gold_gain=None, mean_tokens=20.0, without_gain=0, kept=1,
)  # fmt: skip


def decided(*rates: Estimate | None, over: float | None = 0.5, patience: int = 1) -> list[object]:
    """(without gain, kept, whether the rounds end) after each round."""
    before, found = None, []
    for number, rate in enumerate(rates, start=1):
        made = decide(number, rate, before, over=over, patience=patience)
        found.append((made.without_gain, made.kept, bool(made.ended)))
        before = replace(ROUND, number=number, without_gain=made.without_gain, kept=made.kept)
    return found


def test_decide_an_interval_that_holds_a_half_ends_the_rounds() -> None:
    assert decided(GAIN, NO_GAIN) == [(0, 1, False), (1, 1, True)]


def test_decide_a_gain_between_rounds_without_one_starts_the_count_again() -> None:
    found = decided(GAIN, NO_GAIN, GAIN, NO_GAIN, NO_GAIN, patience=2)
    assert found == [(0, 1, False), (1, 1, False), (0, 3, False), (1, 3, False), (2, 3, True)]


def test_decide_where_nothing_could_be_judged_there_is_no_gain() -> None:
    assert decided(None) == [(1, 1, True)]
    ended = decide(1, None, None, over=0.5, patience=1).ended
    assert ended == "round 1 shows no gain over the start: nothing could be judged"


def test_decide_an_interval_that_only_touches_a_half_is_no_gain() -> None:
    assert decided(Estimate(0.6, 0.5, 0.7, 80)) == [(1, 1, True)]


def test_decide_without_a_rule_the_last_round_is_kept() -> None:
    assert decided(NO_GAIN, NO_GAIN, over=None) == [(0, 1, False), (0, 2, False)]


def test_decide_a_higher_threshold_asks_for_more() -> None:
    assert decided(GAIN, over=0.65) == [(1, 1, True)]


def samples(*responses: str) -> list[Sample]:
    return [
        Sample(
            prompt=Prompt(id=f"p{place // 2}", messages=(Message(role="user", content="?"),)),
            index=place % 2, response=text, tokens=1, complete=True, seed=0,
        )
        for place, text in enumerate(responses)
    ]  # fmt: skip


def test_wins_by_score_are_means_within_prompts_with_ties_as_half() -> None:
    policy, start = samples("aa", "b", "cc", "d"), samples("a", "b", "c", "dd")
    rewards = ([2.0, 1.0, 5.0, None], [1.0, 1.0, 4.0, 0.0])  # win, tie; win, not scored
    found = wins_by_score(policy, start, rewards, lambda messages, text: float(len(text)))
    assert found.reward is not None
    assert found.gold is not None
    assert found.gap is not None
    assert found.reward.value == pytest.approx((0.75 + 1.0) / 2)
    assert found.gold.value == pytest.approx((0.75 + 0.5) / 2)
    assert found.gap.value == pytest.approx((0.0 + 0.5) / 2)
    assert found.reward.n == found.gap.n == 2


def test_wins_by_score_are_none_where_there_is_no_score() -> None:
    same = samples("a", "b")
    assert wins_by_score(same, same, None, None) == WinsByScore()


def test_rounds_are_saved_and_said(tmp_path: Path) -> None:
    second = replace(ROUND, number=2, policy="round-02/dpo", against_before=NO_GAIN,
                     without_gain=1, ended="round 2 shows no gain")  # fmt: skip
    summary = RoundsSummary((ROUND, second), 1)
    summary.save(tmp_path / "rounds.json")
    assert RoundsSummary.load(tmp_path / "rounds.json") == summary
    assert rounds_sentences(summary) == ["Kept: round 1. Round 2 shows no gain."]
    assert round_sentence(second) == (
        "Round 2: win rate against the start 70 % [60, 80] by second, 55 % [44, 66] by judge; "
        "against round 1 55 % [44, 66]. Round 2 shows no gain."
    )
    table = rounds_table(summary)
    assert table.headings == (
        "round", "against the start, second", "against the start, judge",
        "against the round before", "KL k1", "tokens",
    )  # fmt: skip
    assert table.rows[0][0] == "1 (kept)"
    assert [plot.title for plot in rounds_plots(summary)] == [
        "win rate against the start, by second", "win rate against the start, by judge",
        "win rate against the round before",
    ]  # fmt: skip
