"""Running counts and means of judgments, in constant memory, and the summary of a labeled set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from judge_service.types import Judgment, Unjudged, Usage
from rlaif.feedback.earlier_labels import JudgeIdentity
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


@dataclass(frozen=True, slots=True)
class NotAsked:
    """What was left out before the judge was asked for labels."""

    identical: int = 0  # responses dropped before pairing, as duplicates for the same prompt
    unequal: int = 0  # pairs that were not drawn, because their lengths differ too much
    # principle → responses dropped for it
    filtered: Mapping[str, int] = field(default_factory=dict)
    unrated: int = 0  # responses that the filter kept, because they could not be rated
    over_budget: int = 0  # pairs that were not judged, because of a budget of reads
    pairing_reads: int = 0  # of pairs that only found the best and worst response; not in `reads`


ALL_ASKED = NotAsked()


@dataclass(frozen=True, slots=True)
class LabelingSummary:
    """The counts and means in labels.summary.json; the mean of no values is None."""

    pairs: int
    judged: int
    unjudged: int
    unjudged_by_reason: dict[str, int]
    identical: int  # this and the last five: see `NotAsked`
    cut_off: int  # pairs with a response that a length limit cut off
    asked: int  # pairs judged in this run; the others were in the journal
    mean_prob_chosen: float | None  # 0.5 = the judge cannot tell, 1 = always sure
    mean_entropy: float | None  # of prob_chosen, bits: 1 = the judge cannot tell
    undecided: int  # labels with prob_chosen at most 0.55
    position_consistency: float | None  # share with the same response in both orders
    mean_order_gap: float | None  # mean |P(A | order AB) - P(A | order BA)|
    mean_label_mass: float | None  # probability on the two labels, over all valid reads
    void_reads: int
    reads: int  # computed for these labels
    stored_reads: int  # from the server's store, or taken from receipts
    prompt_tokens: int
    cached_tokens: int
    asked_reads: int  # those of `reads` in this run
    asked_stored_reads: int
    seconds: float  # wall time of this run
    judge: JudgeIdentity
    options: dict[str, Any]  # the judge options that labels depend on
    kept: str | None = None  # file name of earlier labels made differently, if any were kept
    unequal: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    unrated: int = 0
    over_budget: int = 0
    pairing_reads: int = 0
