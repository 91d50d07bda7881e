"""Sentences on who judged, shown beside every win rate on the page and on the terminal.

who      the judge and its constitution, and whether it labeled the training data, too
worth    how often it is right on gold, beside naming the longer response; or "not known on gold"
floor    what a win rate would be without a judge: by chance, and by naming the longer response
agree    how often two judges name the same winner, beside chance
failed   pairs that a judge could not judge, by policy and reason
"""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.evaluation.comparison import NOT_ASKED
from rlaif.evaluation.judges.agreement import JudgeAgreement
from rlaif.evaluation.judges.column import JudgeColumn
from rlaif.evaluation.judges.worth import JudgeWorth
from rlaif.evaluation.policies import EvaluationResult
from rlaif.evaluation.rules.measures import LONGER
from rlaif.report.formats import format_percent

LABELED_TOO = "The judge that evaluates also labeled the training data."
UNKNOWN = "not known on gold"


def judged_by(result: EvaluationResult) -> list[str]:
    """All of it, a line each."""
    judges = columns_of(result)
    lines = [_who(judge, alone=len(judges) == 1) for judge in judges]
    if not judges:
        lines.append(f"Which judge decided is not recorded, so it is {UNKNOWN}.")
    failed = [line for judge in judges for line in _failed(judge)]
    return [*lines, floor_line(result), *map(_agreement, result.agreement), *failed]


def columns_of(result: EvaluationResult) -> tuple[JudgeColumn, ...]:
    """The judges' columns; of results written before there were columns, who judged alone."""
    return result.judges or tuple(JudgeColumn(evaluator, ()) for evaluator in result.evaluators)


def worth_line(judge: JudgeColumn) -> str:
    """What the judge is known to be worth on gold."""
    if judge.is_planted:
        return "Planted: simulated by rules, no model; its errors are those of its file."
    if not judge.worth:
        return f"{judge.name} is {UNKNOWN}: how often it is right has not been measured."
    return f"On gold, {judge.name} is right on " + "; ".join(map(_worth, judge.worth)) + "."


def floor_line(result: EvaluationResult) -> str:
    """What a win rate would be without a judge."""
    by_length = [
        f"{policy.name} {format_percent(rule.value)}"
        for policy in result.policies
        for rule in policy.rules
        if rule.rule == LONGER
    ]
    named = f"; naming the longer response gives {', '.join(by_length)}" if by_length else ""
    return f"Floor of a win rate: 50 % by chance{named}."


def _who(judge: JudgeColumn, *, alone: bool) -> str:
    if judge.evaluator is None:
        return "No judge was needed: every response equals the start's."
    said = f"Judged by {judge.name}, constitution {judge.evaluator.constitution}."
    return " ".join((said, _labeled(judge, alone=alone), worth_line(judge)))


def _failed(judge: JudgeColumn) -> Iterator[str]:
    """Which pairs are in none of its rates, and why; what was not asked is reported elsewhere."""
    counts = {
        policy.name: [f"{n} {reason}" for reason, n in policy.unjudged.items()
                      if reason != NOT_ASKED]
        for policy in judge.policies
    }  # fmt: skip
    of_policies = [f"{name} {', '.join(reasons)}" for name, reasons in counts.items() if reasons]
    if of_policies:
        yield f"Pairs that {judge.name} could not judge: {'; '.join(of_policies)}."


def _labeled(judge: JudgeColumn, *, alone: bool) -> str:
    if judge.also_labeled is None:
        return "Whether it also labeled the training data is not known."
    if judge.also_labeled:
        return LABELED_TOO if alone else f"{judge.name} also labeled the training data."
    return "It did not label the training data."


def _worth(worth: JudgeWorth) -> str:
    low, high = 100 * worth.low, 100 * worth.high
    if not worth.above_chance:
        standing = ", not above chance"
    elif not worth.above_floor:
        standing = ", above chance, not above the longer"
    else:
        standing = ", above both"
    return (
        f"{100 * worth.accuracy:.0f} % [{low:.0f}, {high:.0f}] of {worth.n} pairs of {worth.gold} "
        f"(naming the longer: {100 * worth.longer:.0f} %{standing})"
    )


def _agreement(found: JudgeAgreement) -> str:
    kappa = "" if found.kappa is None else f", kappa {found.kappa:.2f}"
    return (
        f"{found.first} and {found.second} name the same winner in "
        f"{format_percent(found.same_winner)} of {found.pairs} pairs "
        f"({100 * found.by_chance:.0f} % by chance{kappa})."
    )
