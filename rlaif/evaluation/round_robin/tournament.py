"""A round robin: every policy compared with every other on the same prompts, by a judge.

With k policies and the start there are k(k+1)/2 comparisons per prompt instead of k. Comparisons
with the start that the judge's journal already has are not read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from rlaif.evaluation.comparison import Compare, compare_with_start
from rlaif.evaluation.policies import PolicyRun
from rlaif.evaluation.round_robin.bradley_terry import bradley_terry
from rlaif.evaluation.round_robin.strengths import SoftWin, StrengthTable


def round_robin(runs: Sequence[PolicyRun], compare: Compare) -> StrengthTable:
    """Strengths of all policies; the first run is the start. Comparisons without a label are left
    out. Raises EvaluationError as `compare_with_start` does."""
    wins: list[SoftWin] = []
    for other, one in combinations(runs, 2):
        # named as in the evaluation where the other is the start
        name = one.name if other is runs[0] else f"{one.name} and {other.name}"
        wins += [
            SoftWin(comparison.prompt, one.name, other.name, comparison.prob)
            for comparison in compare_with_start(one.samples, other.samples, compare, name)
            if comparison.prob is not None
        ]
    return bradley_terry([run.name for run in runs], wins)


def also_round_robin(
    judges: Iterable[Compare], runs: Sequence[PolicyRun], strengths: list[StrengthTable]
) -> Iterator[Compare]:
    """Yields the judges; once the first has done what it was yielded for, and while it is still
    connected, it also judges the round robin, whose table is appended to `strengths`."""
    for compare in judges:
        yield compare
        if not strengths:
            strengths.append(round_robin(runs, compare))
