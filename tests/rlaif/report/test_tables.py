"""The tables of an evaluation on the terminal: intervals, and at most 100 columns."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from rlaif.evaluation.anytime import StopRule
from rlaif.evaluation.human_verdicts import HumanWinRate
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import (
    KL,
    EvaluationResult,
    KindResult,
    LengthStats,
    PolicyResult,
    PolicyRun,
    evaluate,
)
from rlaif.evaluation.round_robin.strengths import StrengthTable
from rlaif.evaluation.round_robin.tournament import round_robin
from rlaif.report.beyond_win_rates import further_sentences, further_tables, print_evaluation
from rlaif.report.formats import format_signed
from rlaif.report.tables import kind_table, print_table, result_tables
from tests.rlaif.evaluation.round_robin.test_tournament import RUNS, by_strength
from tests.rlaif.evaluation.test_comparison import PrefersWord, one_in_two, responses


def estimate(value, half=0.12):
    return Estimate(value, value - half, value + half, 76)


def policy(name, **changes):
    result = PolicyResult(
        name=name,
        win_rate=estimate(0.66),
        judge_score=estimate(0.52),
        reward_score=estimate(-10.25, 1.5),
        kl=KL(estimate(10.76), estimate(10.8)),
        length=LengthStats(151.2, 50.0, 256, 0.9),
        distinct_1=0.5,
        distinct_2=0.91,
        tokens_per_second=1377.4,
        unjudged={"too_long": 2, "void": 1},
        verdicts=(),
        length_controlled=estimate(0.61),
        reward_gain=estimate(1.5, 0.1),
        self_bleu=estimate(0.21),
        refusals_safe=estimate(0.15),
        refusals_harmful=estimate(0.5),
    )
    return replace(result, **changes)


def start():
    nothing = dict.fromkeys(("win_rate", "judge_score", "length_controlled", "kl", "reward_gain"))
    return policy("start", **nothing, unjudged={})


def printed(*policies, width=100):
    out = io.StringIO()
    print_table(EvaluationResult(policies, {}), Console(file=out, width=width))
    return out.getvalue()


def test_the_tables_fit_in_a_hundred_columns_untruncated():
    text = printed(start(), policy("DPO"), policy("ReST"))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if "│" in line) <= 100
    row = next(line for line in text.splitlines() if "DPO" in line)
    for cell in ("66 % [54, 78]", "61 % [49, 73]", "0.52 [0.40, 0.64]", "-10.25 [-11.75, -8.75]"):
        assert cell in row


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_long_name_folds_and_is_not_cut(width):
    name = "dpo_on_both_label_files_with_half_of_the_pairs_left_out"
    text = printed(start(), policy(name), width=width)
    assert "…" not in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert max(map(len, rows)) <= width
    first_cells = "".join(line.split("│")[1].strip() for line in rows)
    assert name in first_cells


def test_the_start_has_no_win_rate():
    row = next(line for line in printed(start()).splitlines() if "start " in line)
    assert row.count("—") >= 3


def test_traits_have_a_table_if_there_are_several():
    one = policy("DPO", traits={"overall": estimate(0.6)})
    assert len(result_tables(EvaluationResult((start(), one), {}))) == 2
    two = policy("DPO", traits={"helpful": estimate(0.6), "honest": estimate(0.4)})
    last = result_tables(EvaluationResult((start(), two), {}))[-1]
    assert last.rows == (("DPO", "60 % [48, 72]", "40 % [28, 52]"),)


def test_overoptimization_is_a_warning_in_words():
    assert "PPO: the reward score is up by +1.50" in printed(start(), policy("PPO"))
    fine = policy("PPO", judge_score=estimate(0.7))
    assert "overoptimized" not in printed(start(), fine)


def test_the_kind_table_has_a_row_for_every_kind_and_policy():
    kinds = tuple(
        KindResult(kind, 10, estimate(0.6), estimate(0.5), estimate(0.2), 40.0)
        for kind in ("everyday", "harmful")
    )
    table = kind_table([policy("DPO", kinds=kinds), policy("PPO", kinds=kinds)])
    assert [row[:3] for row in table.rows] == [
        ("everyday", "DPO", "10"), ("everyday", "PPO", "10"),
        ("harmful", "DPO", "10"), ("harmful", "PPO", "10"),
    ]  # fmt: skip
    assert kind_table([policy("DPO")]) is None


@pytest.mark.parametrize("missing", ["judge_score", "reward_gain"])
def test_without_both_scores_there_is_no_overoptimization_warning(missing):
    assert not policy("PPO", **{missing: None}).overoptimized


# ── beyond win rates ─────────────────────────────────────────────────────────────────────────

HUMAN = HumanWinRate(estimate(0.58, 0.1), estimate(0.6, 0.1), 0.4, 36, 0.75)


def test_a_plain_evaluation_has_none_of_it():
    result = EvaluationResult((start(), policy("dpo")), {})
    assert (further_tables(result), further_sentences(result)) == ([], [])


def test_people_stand_beside_the_judge():
    result = EvaluationResult((start(), policy("dpo")), {}, human={"dpo": HUMAN})
    (table,) = further_tables(result)
    assert table.rows == (
        ("dpo", "66 % [54, 78]", "58 % [48, 68]", "60 % [50, 70]", "76 + 36", "0.40", "75 %"),
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


def test_a_rounding_error_below_zero_has_no_minus_and_a_small_loss_keeps_it():
    assert format_signed(Estimate(-1e-17, -0.004, 0.2, 9)) == "+0.00 [-0.00, +0.20]"
