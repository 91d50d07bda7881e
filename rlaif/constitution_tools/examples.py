"""Tests of principles: the judge's answers to a constitution's own examples.

    p      = ½ (p_AB + p_BA)      P(the preferred response), averaged over both orders
    pass     p > ½                for `preferred: A` or `B`
             |p - ½| <= margin    for `preferred: TIE`, where p = P(A)
    weak     p passes, but one order alone would not or could not be read: the answer depends on
             which response comes first

Every example is judged by its own principle alone, so that no other principle can cause a pass. An
example without a judgment fails, with the reason. Left out: calibration, which is fitted to a whole
constitution and never moves a probability across one half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from constitution.errors import UserError, nearest
from constitution.schema import Constitution, Example, Principle
from judge_service.judge.label_probs import prob_a
from judge_service.types import Comparison, Judgment, Order, Unjudged
from rlaif.evaluation.intervals import Estimate, share_estimate
from rlaif.feedback.labeler import TRANSIENT
from rlaif.labels.reaggregate import restrict_to

DEFAULT_TIE_MARGIN = 0.1

Answer = Judgment | Unjudged
JudgeStream = Callable[[Sequence[Comparison], Constitution], Iterator[tuple[str, Answer]]]
"""(comparisons, the constitution to judge them by) → (id, answer), in any order."""


class ExampleResult(StrEnum):
    """The result of one example; the values appear in JSON and JUnit reports."""

    PASSED = "passed"
    WEAK = "weak"  # passed, but not in each order alone
    FAILED = "failed"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Case:
    """One example of one principle; `number` counts from 1 within the principle."""

    principle: Principle
    number: int
    example: Example

    @property
    def key(self) -> str:
        """sha256 of everything the judge reads: cases with equal keys need one judgment."""
        turns = [[message.role, message.content] for message in self.example.conversation]
        texts = [self.principle.compare, turns, self.example.response_a, self.example.response_b]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExampleOutcome:
    """The outcome of one example. Probabilities are of the preferred response, or of A if a tie is
    expected; None without a judgment, and by order if the reads do not cover both orders.
    """

    principle_id: str
    number: int
    preferred: str  # A, B or TIE
    result: ExampleResult
    prob: float | None = None
    prob_ab: float | None = None  # with A first
    prob_ba: float | None = None  # with B first
    reason: str = ""  # why there is no judgment
    remembered: bool = False  # taken from an earlier run, without a read

    @property
    def passed(self) -> bool:
        """Whether the example passed, be it weakly."""
        return self.result in (ExampleResult.PASSED, ExampleResult.WEAK)

    @property
    def spread(self) -> float | None:
        """The difference between the two orders, in [0, 1]."""
        if self.prob_ab is None or self.prob_ba is None:
            return None
        return abs(self.prob_ab - self.prob_ba)


def cases(constitution: Constitution, wanted: Collection[str] = ()) -> tuple[Case, ...]:
    """Every example, or those of the named principles. Raises UserError for an unknown name."""
    known = [principle.id for principle in constitution.principles]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"it has: {', '.join(known)}"
            raise UserError(f"unknown principle of {constitution.name}: --principle {name}; {hint}")
    return tuple(
        Case(principle, number, example)
        for principle in constitution.principles
        if not wanted or principle.id in wanted
        for number, example in enumerate(principle.examples, start=1)
    )


def judge_cases(
    selected: Sequence[Case],
    constitution: Constitution,
    stream: JudgeStream,
    memory: MutableMapping[str, Answer],
    *,
    tie_margin: float = DEFAULT_TIE_MARGIN,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[ExampleOutcome, ...]:
    """The outcome of every case, in order. `memory` (key → answer) is used and extended.

    `report` is called with the number of cases done. Raises what `stream` raises.
    """
    # One stream per principle, by a constitution of that principle alone.
    known = set(memory)
    done = 0
    for principle in constitution.principles:
        own = [case for case in selected if case.principle.id == principle.id]
        new = {case.key: case for case in own if case.key not in known and _in_scope(case)}
        pairs = [
            Comparison(key, case.example.conversation, case.example.response_a,
                       case.example.response_b)
            for key, case in new.items()
        ]  # fmt: skip
        done += len(own) - len(pairs)
        report(done)
        if pairs:
            for key, answer in stream(pairs, restrict_to(constitution, [principle])):
                memory[key] = answer
                report(done := done + 1)
    outcomes = tuple(
        _outcome(case, memory.get(case.key), tie_margin, remembered=case.key in known)
        for case in selected
    )
    for key in [k for k, a in memory.items() if isinstance(a, Unjudged) and a.reason in TRANSIENT]:
        del memory[key]  # another try may change it
    return outcomes


def _in_scope(case: Case) -> bool:
    return case.principle.applies_to(case.example.conversation)


def _outcome(
    case: Case, answer: Answer | None, margin: float, *, remembered: bool
) -> ExampleOutcome:
    preferred = case.example.preferred
    place = (case.principle.id, case.number, preferred)
    if not _in_scope(case):
        reason = "its principle's scope excludes this prompt: change the scope or the example"
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason=reason)
    if answer is None:
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason="the judge gave no answer")
    if isinstance(answer, Unjudged):
        reason = f"{answer.reason.value}: {answer.detail}"
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason=reason, remembered=remembered)

    # The judge's P(A) as P(preferred), so that one rule serves A and B.
    def as_preferred(prob: float) -> float:
        return 1.0 - prob if preferred == "B" else prob

    def passes(prob: float) -> bool:
        return abs(prob - 0.5) <= margin if preferred == "TIE" else prob > 0.5

    (vote,) = answer.votes
    prob = as_preferred(vote.prob_a)
    ab = ba = None
    if vote.order_gap is not None:
        ab, ba = (
            as_preferred(fmean(prob_a(read) for read in vote.reads if read.order is order))
            for order in (Order.AB, Order.BA)
        )
    if not passes(prob):
        result = ExampleResult.FAILED
    elif vote.void_reads or not all(passes(one) for one in (ab, ba) if one is not None):
        result = ExampleResult.WEAK
    else:
        result = ExampleResult.PASSED
    return ExampleOutcome(*place, result, prob, ab, ba, remembered=remembered)


# ── summary ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ExamplesSummary:
    """Shares of passed examples with Wilson's 95 % interval: over all, and by principle."""

    total: Estimate | None  # None without examples
    by_principle: dict[str, Estimate]
    weak: int
    without_examples: tuple[str, ...]


def summarize(outcomes: Sequence[ExampleOutcome], constitution: Constitution) -> ExamplesSummary:
    """Summarize the outcomes of some or all examples of the constitution."""
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.principle_id, []).append(float(outcome.passed))
    everything = [value for group in groups.values() for value in group]
    return ExamplesSummary(
        total=share_estimate(everything) if everything else None,
        by_principle={name: share_estimate(group) for name, group in groups.items()},
        weak=sum(outcome.result is ExampleResult.WEAK for outcome in outcomes),
        without_examples=tuple(p.id for p in constitution.principles if not p.examples),
    )
