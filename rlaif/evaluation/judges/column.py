"""One judge's results for all policies: a column beside those of other judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlaif.evaluation.comparison import (
    PLANTED,
    EvaluatorModel,
    ResponseComparison,
    judge_score,
    length_controlled,
    win_rate,
)
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.judges.worth import JudgeWorth, worth_of


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """P(the policy's response is better than the start's) of one pair of different responses; None
    where the judge gave no label."""

    prompt: str  # prompt id
    index: int
    prob: float | None
    look: int = 0  # as in ResponseComparison


@dataclass(frozen=True, slots=True)
class PolicyColumn:
    """One policy by one judge. Pairs of equal responses are ties in the rates, and no verdicts."""

    name: str
    win_rate: Estimate | None
    length_controlled: Estimate | None
    judge_score: Estimate | None
    unjudged: dict[str, int]
    verdicts: tuple[PairVerdict, ...]


@dataclass(frozen=True, slots=True)
class JudgeColumn:
    """What one judge says about all trained policies.

    evaluator: None where no pair had to be judged. also_labeled: whether the same weights labeled
    the data that a policy was trained on, None if that is not known. worth: what is known of the
    judge on gold, empty if nothing is.
    """

    evaluator: EvaluatorModel | None
    policies: tuple[PolicyColumn, ...]
    also_labeled: bool | None = None
    worth: tuple[JudgeWorth, ...] = ()

    @property
    def name(self) -> str:
        """The judge's name, for tables."""
        return self.evaluator.name if self.evaluator else "no judge"

    @property
    def is_planted(self) -> bool:
        """Whether the judge is simulated by rules."""
        return self.name.startswith(PLANTED)


@dataclass(frozen=True, slots=True)
class Labelers:
    """Who labeled what the policies were trained on. complete: False if some of it is not known."""

    weights: frozenset[str] = frozenset()  # sha256 of each labeler's weights
    complete: bool = False

    def include(self, evaluator: EvaluatorModel) -> bool | None:
        """Whether this model is among them; None if that is not known."""
        if evaluator.weights_sha256 in self.weights:
            return True
        return False if self.complete else None


def column_of(
    evaluator: EvaluatorModel | None,
    comparisons: Mapping[str, Sequence[ResponseComparison]],
    start: Mapping[tuple[str, int], str],
) -> JudgeColumn:
    """A judge's column. comparisons: by policy; start: the start's response to each (prompt id,
    index)."""
    return JudgeColumn(
        evaluator, tuple(_policy(name, own, start) for name, own in comparisons.items())
    )


def _policy(
    name: str, own: Sequence[ResponseComparison], start: Mapping[tuple[str, int], str]
) -> PolicyColumn:
    return PolicyColumn(
        name,
        win_rate(own),
        length_controlled(own),
        judge_score(own),
        dict(Counter(c.reason for c in own if c.prob is None)),
        tuple(
            PairVerdict(c.prompt, c.index, c.prob, c.look)
            for c in own
            if c.response != start[c.prompt, c.index]
        ),
    )


def with_judge_facts(
    columns: Sequence[JudgeColumn], labelers: Labelers, worth: Sequence[JudgeWorth]
) -> tuple[JudgeColumn, ...]:
    """The columns, with whether each judge labeled and what is known of it on gold."""
    return tuple(
        replace(
            column,
            also_labeled=labelers.include(column.evaluator),
            worth=worth_of(column.evaluator, worth),
        )
        if column.evaluator
        else column
        for column in columns
    )
