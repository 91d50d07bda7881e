"""Where judging stopped, win rates by people and strengths, on the terminal and on the page."""

import io

from rich.console import Console

from rlaif.evaluation.anytime import StopRule
from rlaif.evaluation.bradley_terry import StrengthTable
from rlaif.evaluation.human_verdicts import HumanWinRate
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, PolicyRun, evaluate
from rlaif.feedback.tournament import round_robin
from rlaif.report.beyond_win_rates import further_sentences, further_tables, print_evaluation
from tests.rlaif.evaluation.test_comparison import PrefersWord, one_in_two, responses
from tests.rlaif.feedback.test_tournament import RUNS, by_strength
from tests.rlaif.report.test_tables import policy, start


def estimate(value):
    return Estimate(value, value - 0.1, value + 0.1, 40)


HUMAN = HumanWinRate(estimate(0.58), estimate(0.6), 0.4, 36, 0.75)


def test_a_plain_evaluation_has_none_of_it():
    result = EvaluationResult((start(), policy("dpo")), {})
    assert (further_tables(result), further_sentences(result)) == ([], [])


def test_people_stand_beside_the_judge():
    result = EvaluationResult((start(), policy("dpo")), {}, human={"dpo": HUMAN})
    (table,) = further_tables(result)
    assert table.rows == (
        ("dpo", "66 % [54, 78]", "58 % [48, 68]", "60 % [50, 70]", "40 + 36", "0.40", "75 %"),
    )


def test_strengths_come_strongest_first_and_arms_after_them():
    (table,) = further_tables(EvaluationResult((), {}, strengths=round_robin(RUNS, by_strength())))
    assert [row[0] for row in table.rows] == ["dpo", "start", "ppo"]
    assert table.rows[1] == ("start", "+0.00 [+0.00, +0.00]", "50 % [50, 50]")


def test_missing_strengths_are_explained():
    strengths = StrengthTable((), infinite="no finite strengths: dpo always won against start")
    result = EvaluationResult((), {}, strengths=strengths)
    assert further_tables(result) == []
    assert further_sentences(result) == [
        "Round robin: no finite strengths: dpo always won against start."
    ]


def stopped(judge, rule):
    runs = (PolicyRun("start", responses("bad")), [PolicyRun("dpo", responses("good"))])
    return evaluate(*runs, judge, until=rule)


def test_a_stop_is_said_with_the_kind_of_interval():
    rule, stop = further_sentences(stopped(PrefersWord(), StopRule()))
    assert "until a win rate's interval excludes 50 %" in rule
    assert "anytime intervals" in rule
    assert stop.startswith("dpo: stopped after 16 of 100 prompts, win rate 100 % [")


def test_judging_all_prompts_is_said():
    rule, stop = further_sentences(stopped(one_in_two, StopRule(0.05)))
    assert "is 0.05 wide at most" in rule
    assert stop.startswith("dpo: judged on all 100 prompts, win rate 50 % [")


def test_the_terminal_shows_all_of_it():
    out = io.StringIO()
    result = stopped(PrefersWord(), StopRule())
    print_evaluation(result, Console(file=out, width=200))
    assert "Against the start" in out.getvalue()
    assert "stopped after 16 of 100 prompts" in out.getvalue()
    out = io.StringIO()
    strengths = round_robin(RUNS, by_strength())
    result = EvaluationResult(
        (start(), policy("dpo")), {}, human={"dpo": HUMAN}, strengths=strengths
    )
    print_evaluation(result, Console(file=out, width=100))
    text = out.getvalue()
    assert "Win rate by people" in text
    assert "Round robin" in text
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 100
