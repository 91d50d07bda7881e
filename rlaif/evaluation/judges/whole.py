"""A whole evaluation: win rates by judges and people, strengths, what is known of the judges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rlaif.data.records import HumanVerdict
from rlaif.evaluation.anytime import StopRule
from rlaif.evaluation.comparison import Compare
from rlaif.evaluation.human_verdicts import human_win_rates
from rlaif.evaluation.judges.column import Labelers
from rlaif.evaluation.judges.worth import JudgeWorth, shipped_worth
from rlaif.evaluation.policies import EvaluationResult, PolicyRun, evaluate_by
from rlaif.evaluation.round_robin.strengths import StrengthTable
from rlaif.evaluation.round_robin.tournament import also_round_robin


def whole_evaluation(
    runs: Sequence[PolicyRun],
    judges: Iterable[Compare],
    labelers: Labelers,
    worth: Sequence[JudgeWorth] = (),
    *,
    until: StopRule | None = None,
    human: Sequence[HumanVerdict] = (),
    round_robin: bool = False,
) -> EvaluationResult:
    """Compare all policies with the first run, the start, by each judge in turn.

    labelers: who labeled the training data. worth: figures on gold beside those of the judges that
    ship. human: verdicts of people on some pairs. round_robin: the first judge also compares every
    two policies. Raises EvaluationError as `evaluate_by`.
    """
    strengths: list[StrengthTable] = []
    in_turn = also_round_robin(judges, runs, strengths) if round_robin else judges
    result = evaluate_by(runs[0], runs[1:], in_turn, until=until)
    comparisons = {policy.name: policy.verdicts for policy in result.policies[1:]}
    result = replace(
        result,
        human=human_win_rates(human, comparisons),
        strengths=strengths[0] if strengths else None,
    )
    return result.with_judge_facts(labelers, [*shipped_worth(), *worth])
