"""A constitution's own examples through the judge: does each principle decide as its author means?

    p      = ½ (p_AB + p_BA)      P(the preferred response), both orders averaged
    pass     p > ½                for `preferred: A` or `B`
             |p - ½| <= margin    for `preferred: TIE`, where p = P(A)
    weak     p passes and one order alone would not, or could not be read: the answer hangs on who
             stands first

Every example is asked of its own principle alone, so a pass cannot be another principle's doing.
What cannot be judged fails, with its reason. Left out: calibration, which is fitted to a whole
constitution and never moves a probability across one half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from constitution.errors import UserError
from constitution.schema import Constitution, Example, Principle, nearest
from judge_service.judge.label_probs import prob_a
from judge_service.types import Comparison, Judgment, Order, Unjudged
from rlaif.evaluation.intervals import Estimate, share_estimate
from rlaif.feedback.labeler import TRANSIENT
from rlaif.labels.reaggregate import restrict_to

DEFAULT_TIE_MARGIN = 0.1

Answer = Judgment | Unjudged
Ask = Callable[[Sequence[Comparison], Constitution], Iterator[tuple[str, Answer]]]
"""Comparisons and the law to judge them by → (id, answer), in any order."""


class ExampleResult(StrEnum):
    PASSED = "passed"
    WEAK = "weak"  # passed, but not by each order alone
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
        """sha256 of all that the judge is asked: an equal key needs no second reading."""
        turns = [[message.role, message.content] for message in self.example.conversation]
        asked = [self.principle.compare, turns, self.example.response_a, self.example.response_b]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExampleOutcome:
    """What the judge made of one example. Probabilities are of the preferred response, or of A
    where a tie is expected; None where nothing was judged, and where the reads have no two orders.
    """

    principle_id: str
    number: int
    preferred: str  # A, B or TIE
    result: ExampleResult
    prob: float | None = None
    prob_ab: float | None = None  # with A first
    prob_ba: float | None = None  # with B first
    reason: str = ""  # why it is unjudged
    remembered: bool = False  # taken from an earlier run: nothing was asked

    @property
    def passed(self) -> bool:
        return self.result in (ExampleResult.PASSED, ExampleResult.WEAK)

    @property
    def spread(self) -> float | None:
        """How far the two orders are apart, in [0, 1]."""
        if self.prob_ab is None or self.prob_ba is None:
            return None
        return abs(self.prob_ab - self.prob_ba)


def cases(law: Constitution, wanted: Collection[str] = ()) -> tuple[Case, ...]:
    """Every example, or those of the principles named. Raises UserError for an unknown name."""
    known = [principle.id for principle in law.principles]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"it has: {', '.join(known)}"
            raise UserError(f"--principle {name}: {law.name} has no such principle; {hint}")
    return tuple(
        Case(principle, number, example)
        for principle in law.principles
        if not wanted or principle.id in wanted
        for number, example in enumerate(principle.examples, start=1)
    )


def judge_cases(
    found: Sequence[Case],
    law: Constitution,
    ask: Ask,
    memory: MutableMapping[str, Answer],
    *,
    tie_margin: float = DEFAULT_TIE_MARGIN,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[ExampleOutcome, ...]:
    """The outcome of every case, in order. `memory` (key → answer) is read, and added to.

    `report` is called with the number of cases done. Raises what `ask` raises.
    """
    known = set(memory)
    done = 0
    for principle in law.principles:
        of_it = [case for case in found if case.principle.id == principle.id]
        new = {case.key: case for case in of_it if case.key not in known and _in_scope(case)}
        pairs = [
            Comparison(key, case.example.conversation, case.example.response_a,
                       case.example.response_b)
            for key, case in new.items()
        ]  # fmt: skip
        done += len(of_it) - len(pairs)
        report(done)
        for key, answer in ask(pairs, restrict_to(law, [principle])) if pairs else ():
            memory[key] = answer
            report(done := done + 1)
    outcomes = tuple(
        _outcome(case, memory.get(case.key), tie_margin, remembered=case.key in known)
        for case in found
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
        reason = "its principle's scope leaves this prompt out: mend the scope or the example"
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason=reason)
    if answer is None:
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason="the judge gave no answer")
    if isinstance(answer, Unjudged):
        reason = f"{answer.reason.value}: {answer.detail}"
        return ExampleOutcome(*place, ExampleResult.UNJUDGED, reason=reason, remembered=remembered)

    def seen(prob: float) -> float:
        return 1.0 - prob if preferred == "B" else prob

    def passes(prob: float) -> bool:
        return abs(prob - 0.5) <= margin if preferred == "TIE" else prob > 0.5

    (vote,) = answer.votes
    prob = seen(vote.prob_a)
    ab = ba = None
    if vote.order_gap is not None:
        ab, ba = (
            seen(fmean(prob_a(read) for read in vote.reads if read.order is order))
            for order in (Order.AB, Order.BA)
        )
    if not passes(prob):
        result = ExampleResult.FAILED
    elif vote.void_reads or not all(passes(one) for one in (ab, ba) if one is not None):
        result = ExampleResult.WEAK
    else:
        result = ExampleResult.PASSED
    return ExampleOutcome(*place, result, prob, ab, ba, remembered=remembered)


# ── what they add up to ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ExamplesSummary:
    """Shares of passed examples with Wilson's 95 % interval: over all, and by principle."""

    total: Estimate | None  # None: no example
    by_principle: dict[str, Estimate]
    weak: int
    without_examples: tuple[str, ...]


def summarize(outcomes: Sequence[ExampleOutcome], law: Constitution) -> ExamplesSummary:
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.principle_id, []).append(float(outcome.passed))
    everything = [value for group in groups.values() for value in group]
    return ExamplesSummary(
        total=share_estimate(everything) if everything else None,
        by_principle={name: share_estimate(group) for name, group in groups.items()},
        weak=sum(outcome.result is ExampleResult.WEAK for outcome in outcomes),
        without_examples=tuple(p.id for p in law.principles if not p.examples),
    )
