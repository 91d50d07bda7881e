"""Running counts and means of judgments, in constant memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from judge_service.types import Judgment, Unjudged, Usage
from rlaif.feedback.undecided import Decisiveness


@dataclass(slots=True)
class Mean:
    """A running mean; None values are not counted."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Include a value; None is skipped."""
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean so far; None without values."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Tally:
    """Counts and means over the judge's answers, for the summary of a labeled set."""

    judged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of pairs without a judgment
    prob_chosen: Mean = field(default_factory=Mean)
    decisiveness: Decisiveness = field(default_factory=Decisiveness)
    consistent: Mean = field(default_factory=Mean)
    order_gap: Mean = field(default_factory=Mean)
    label_mass: Mean = field(default_factory=Mean)
    void_reads: int = 0
    traits: set[str] = field(default_factory=set)
    usage: Usage = field(default_factory=Usage)

    def add(self, answer: Judgment | Unjudged) -> None:
        """Include one answer: its usage, and either its reason or its probabilities and reads."""
        self.usage += answer.usage
        if isinstance(answer, Unjudged):
            self.reasons[answer.reason.value] += 1
            return
        self.judged += 1
        prob_chosen = max(answer.prob_a, 1.0 - answer.prob_a)
        self.prob_chosen.add(prob_chosen)
        self.decisiveness.add(prob_chosen)
        self.consistent.add(answer.position_consistent)
        self.order_gap.add(answer.order_gap)
        self.traits.update(answer.trait_probs)
        for vote in answer.votes:
            self.void_reads += vote.void_reads
            for read in vote.reads:
                self.label_mass.add(read.label_mass)
