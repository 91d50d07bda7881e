"""Tables and sentences on results of an evaluation beyond its win rates: when judging stopped, win
rates by people, facts that changed, and the strengths of a round robin.
"""

from __future__ import annotations

from rich.console import Console

from rlaif.evaluation.anytime import SETTLED
from rlaif.evaluation.comparison import LOOK_EVERY, NOT_ASKED
from rlaif.evaluation.policies import EvaluationResult, PolicyResult
from rlaif.report.formats import NO_VALUE, format_percent, format_signed
from rlaif.report.tables import ResultTable, print_result_table, print_table


def print_evaluation(result: EvaluationResult, console: Console) -> None:
    """Print the result's tables, and what it has beside win rates."""
    print_table(result, console)
    for table in further_tables(result):
        print_result_table(table, console)
    for sentence in further_sentences(result):
        console.print(sentence, highlight=False, soft_wrap=True)


def further_tables(result: EvaluationResult) -> list[ResultTable]:
    """Win rates by people, and strengths; none of either if it was not asked for."""
    tables = []
    if result.human:
        rates = {policy.name: policy.win_rate for policy in result.policies}
        rows = [
            (
                name,
                format_percent(rates.get(name)),
                format_percent(human.corrected),
                format_percent(human.human),
                f"{human.corrected.n} + {human.judge_only}",
                f"{human.judge_weight:.2f}",
                NO_VALUE if human.agreement is None else f"{100 * human.agreement:.0f} %",
            )
            for name, human in result.human.items()
        ]
        headings = (
            "policy", "judge alone", "judge and people (PPI++)", "people alone",
            "prompts (people + judge)", "judge's weight", "agreement",
        )  # fmt: skip
        tables.append(ResultTable("Win rate by people (95 % intervals)", headings, tuple(rows)))
    if result.strengths is not None and result.strengths.policies:
        strengths = [
            (
                row.name if row.seeds == 1 else f"{row.name}, mean of {row.seeds} seeds",
                format_signed(row.strength),
                format_percent(row.wins_start),
            )
            for row in (*result.strengths.policies, *result.strengths.arms)
        ]
        title = "Round robin, Bradley-Terry (95 % intervals, by prompt)"
        columns = ("policy", "strength (log-odds)", "P(better than the start)")
        tables.append(ResultTable(title, columns, tuple(strengths)))
    return tables


def further_sentences(result: EvaluationResult) -> list[str]:
    """Where judging stopped, why a table is missing, and what its figures mean."""
    sentences = []
    if result.until:
        goal = "excludes 50 %" if result.until == SETTLED else f"is {result.until} wide at most"
        sentences.append(
            f"Prompts were judged in random order, {LOOK_EVERY} at a time, until a win rate's "
            f"interval {goal}. Intervals are anytime intervals: they hold at every look; the win "
            "rate at equal length has none. Agreement of judges is over the prompts that each of "
            "them judged for every policy."
        )
        sentences += [_stop(policy) for policy in result.policies[1:]]
    sentences += [line for policy in result.policies if (line := _flipped_facts(policy))]
    if result.strengths is not None and result.strengths.infinite:
        sentences.append(f"Round robin: {result.strengths.infinite}.")
    return sentences


def _flipped_facts(policy: PolicyResult) -> str:
    """How the answers to facts changed since the start; "" for the start, or without facts."""
    flips = {each.rule: each.flips for each in policy.rules if each.flips is not None}
    changes = [
        f"{rule.removeprefix('fact ')} +{change.gained} -{change.lost} (p = {change.p_value:.2g})"
        for rule, change in flips.items()
    ]
    if not changes:
        return ""
    return (
        f"{policy.name}: facts that changed since the start, by McNemar's exact test: "
        f"{', '.join(changes)}."
    )


def _stop(policy: PolicyResult) -> str:
    prompts = {verdict.prompt for verdict in policy.verdicts}
    left = {verdict.prompt for verdict in policy.verdicts if verdict.reason == NOT_ASKED}
    judged = len(prompts) - len(left)
    rate = policy.win_rate
    found = f"win rate {format_percent(rate)}" if rate else "the judge gave no label"
    if left:
        return f"{policy.name}: stopped after {judged} of {len(prompts)} prompts, {found}"
    return f"{policy.name}: judged on all {judged} prompts, {found}"
