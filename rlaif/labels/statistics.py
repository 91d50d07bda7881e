"""Statistics of a file of labels: balance, confidence, consistency and principles.

    chosen A        share of labels whose chosen response was A. A hash decides which response is
                    A, so a share far from one half means that the judge prefers a position
    decides         a principle decides a label if the others alone would choose the other
                    response: p and p without it are on different sides of one half
    agrees          the principle alone prefers the response that the label chose
    chosen longer   share of labels whose chosen response has more characters (½ for equal
                    lengths), averaged within a prompt, with Wilson's interval over prompts

The labels are read in one pass; memory holds two numbers of each.
Left out: comparison with gold labels (`rlaif constitution ablate`).
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from judge_service.judge.aggregation import weighted_prob
from judge_service.types import PrincipleVote, Verdict
from rlaif.data.cut_off import cut_in_pair
from rlaif.data.records import Preference, RecordError
from rlaif.data.shards.digests import repeated
from rlaif.evaluation.intervals import Estimate, wilson
from rlaif.feedback.counts import Mean
from rlaif.feedback.receipts import Receipt, parse_receipt
from rlaif.feedback.undecided import Decisiveness

HISTOGRAM_BINS = 10
"""Number of bins of prob_chosen over [0.5, 1]."""

TraitWeights = Callable[[str], Mapping[str, float] | None]
"""Constitution digest → its trait weights; None if that constitution is not available."""


@dataclass(frozen=True, slots=True)
class PrincipleStats:
    """One principle's shares and means over the labels it voted on."""

    principle_id: str
    trait: str
    labels: int
    mean_prob_a: float
    mean_prob_chosen: float  # P(the chosen response is better) by this principle
    decides: float
    agrees: float
    mean_order_gap: float | None


@dataclass(frozen=True, slots=True)
class LabelStats:
    """The statistics of a set of labels; the mean of no values is None."""

    labels: int
    prompts: int
    chosen_a: Estimate
    ties: int  # verdict TIE
    cut_off: int  # labels with a response that a length limit cut off
    mean_prob_chosen: float
    mean_entropy: float  # of prob_chosen, bits: 1 = the judge cannot tell
    undecided: int  # labels with prob_chosen at most 0.55
    histogram: tuple[int, ...]  # of prob_chosen: HISTOGRAM_BINS of equal width over [0.5, 1]
    position_consistency: float | None
    mean_order_gap: float | None
    mean_label_mass: float | None
    lowest_label_mass: float | None
    void_reads: int
    reads: int  # in the receipts
    stored_reads: int  # those of them from a store or an earlier receipt
    chosen_longer: Estimate
    traits: dict[str, float]  # mean P(the chosen response is better) by trait
    principles: tuple[PrincipleStats, ...]
    constitutions: dict[str, int]  # "name version (digest)" → labels
    models: dict[str, int]
    unjudged: dict[str, int]  # reason → pairs without a label


@dataclass(slots=True)
class _PrincipleCount:
    """The running means of one principle."""

    trait: str
    prob_a: Mean = field(default_factory=Mean)
    prob_chosen: Mean = field(default_factory=Mean)
    decides: Mean = field(default_factory=Mean)
    agrees: Mean = field(default_factory=Mean)
    order_gap: Mean = field(default_factory=Mean)

    def stats(self, principle_id: str) -> PrincipleStats:
        return PrincipleStats(
            principle_id=principle_id,
            trait=self.trait,
            labels=self.prob_a.count,
            mean_prob_a=self.prob_a.value or 0.0,
            mean_prob_chosen=self.prob_chosen.value or 0.0,
            decides=self.decides.value or 0.0,
            agrees=self.agrees.value or 0.0,
            mean_order_gap=self.order_gap.value,
        )


def decides(
    votes: tuple[PrincipleVote, ...], place: int, trait_weights: Mapping[str, float]
) -> bool:
    """Whether the label would choose the other response without the vote at index `place`.

    A single vote decides. At exactly one half, A is chosen, as in a label.
    """
    others = votes[:place] + votes[place + 1 :]
    if not others:
        return True
    whole, rest = weighted_prob(votes, trait_weights), weighted_prob(others, trait_weights)
    return (whole >= 0.5) != (rest >= 0.5)


class _Count:
    """Running counts and means over labels."""

    def __init__(self, trait_weights: TraitWeights) -> None:
        self._trait_weights = trait_weights
        self.labels = self.ties = self.cut_off = 0
        self.void_reads = self.reads = self.stored_reads = 0
        self.decisiveness = Decisiveness()
        self.chosen_a, self.prob_chosen, self.consistent = Mean(), Mean(), Mean()
        self.order_gap, self.label_mass = Mean(), Mean()
        self.lowest_label_mass: float | None = None
        self.histogram = [0] * HISTOGRAM_BINS
        self.longer = _ByPrompt()
        self.traits: dict[str, Mean] = {}
        self.principles: dict[str, _PrincipleCount] = {}
        self.constitutions: Counter[str] = Counter()
        self.models: Counter[str] = Counter()

    def add(self, label: Preference, receipt: Receipt) -> None:
        # The label as a whole: its verdict, confidence and agreement between the two orders.
        self.labels += 1
        self.chosen_a.add(receipt.chosen == "A")
        self.ties += receipt.verdict is Verdict.TIE
        self.cut_off += cut_in_pair(label) > 0
        self.prob_chosen.add(label.prob_chosen)
        self.decisiveness.add(label.prob_chosen)
        place = int((label.prob_chosen - 0.5) * 2 * HISTOGRAM_BINS)
        self.histogram[max(0, min(place, HISTOGRAM_BINS - 1))] += 1
        self.consistent.add(receipt.position_consistent)
        self.order_gap.add(receipt.order_gap)
        excess = len(label.chosen_text) - len(label.rejected_text)
        self.longer.add(_prompt_key(label), 0.5 if excess == 0 else float(excess > 0))
        for trait, prob in label.traits.items():
            if prob is not None:
                self.traits.setdefault(trait, Mean()).add(prob)
        # Where it came from, and what each of its votes did.
        origin = receipt.provenance
        constitution = f"{origin.constitution_name} {origin.constitution_version}"
        self.constitutions[f"{constitution} ({origin.constitution_sha256[:12]})"] += 1
        self.models[f"{origin.model.name} ({origin.model.dtype}, {origin.model.engine})"] += 1
        weights = self._trait_weights(origin.constitution_sha256) or {}
        for place, vote in enumerate(receipt.votes):
            self._add_vote(vote, receipt.chosen == "A", decides(receipt.votes, place, weights))

    def _add_vote(self, vote: PrincipleVote, a_chosen: bool, decided: bool) -> None:
        count = self.principles.setdefault(vote.principle_id, _PrincipleCount(vote.trait))
        count.prob_a.add(vote.prob_a)
        count.prob_chosen.add(vote.prob_a if a_chosen else 1.0 - vote.prob_a)
        count.agrees.add((vote.prob_a >= 0.5) == a_chosen)
        count.decides.add(decided)
        count.order_gap.add(vote.order_gap)
        self.void_reads += vote.void_reads
        for read in vote.reads:
            self.reads += 1
            self.stored_reads += read.stored
            self.label_mass.add(read.label_mass)
            lowest = self.lowest_label_mass
            self.lowest_label_mass = min(read.label_mass, 1.0 if lowest is None else lowest)


class _ByPrompt:
    """The mean over prompts of each prompt's mean, in 24 bytes for every run of one prompt."""

    def __init__(self) -> None:
        self._keys, self._sums, self._counts = array("Q"), array("d"), array("Q")

    def add(self, key: int, value: float) -> None:
        """A value of a prompt. Values of one prompt usually come in a row, but need not."""
        if not self._keys or self._keys[-1] != key:
            self._keys.append(key)
            self._sums.append(0.0)
            self._counts.append(0)
        self._sums[-1] += value
        self._counts[-1] += 1

    def mean(self) -> tuple[int, float]:
        """(the number of prompts, the mean of their means)"""
        strewn = repeated(self._keys)
        joined: dict[int, tuple[float, int]] = {}
        means = Mean()
        for key, value, count in zip(self._keys, self._sums, self._counts, strict=True):
            if key in strewn:
                before, counted = joined.get(key, (0.0, 0))
                joined[key] = before + value, counted + count
            else:
                means.add(value / count)
        for value, count in joined.values():
            means.add(value / count)
        return means.count, means.value or 0.0


def _prompt_key(label: Preference) -> int:
    text = json.dumps([[m.role, m.content] for m in label.prompt])
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def stats(
    labels: Iterable[Preference], trait_weights: TraitWeights, unjudged: Mapping[str, int]
) -> LabelStats:
    """The statistics of the labels; `unjudged` is passed through (see `read_unjudged`).

    If a label's constitution is not available, its traits have equal weights in `decides`. Raises
    RecordError when there are no labels or a receipt is invalid.
    """
    # One pass that keeps three numbers per prompt, so that a file may be larger than memory.
    count = _Count(trait_weights)
    for label in labels:
        count.add(label, parse_receipt(label))
    if not count.labels:
        raise RecordError("the file contains no labels; label pairs first, with rlaif label")
    a_chosen, prob_chosen = count.chosen_a.value, count.prob_chosen.value
    assert a_chosen is not None
    assert prob_chosen is not None
    prompts, longer = count.longer.mean()
    return LabelStats(
        labels=count.labels,
        prompts=prompts,
        chosen_a=Estimate(a_chosen, *wilson(a_chosen, count.labels), n=count.labels),
        ties=count.ties,
        cut_off=count.cut_off,
        mean_prob_chosen=prob_chosen,
        mean_entropy=count.decisiveness.mean_entropy or 0.0,
        undecided=count.decisiveness.undecided,
        histogram=tuple(count.histogram),
        position_consistency=count.consistent.value,
        mean_order_gap=count.order_gap.value,
        mean_label_mass=count.label_mass.value,
        lowest_label_mass=count.lowest_label_mass,
        void_reads=count.void_reads,
        reads=count.reads,
        stored_reads=count.stored_reads,
        chosen_longer=Estimate(longer, *wilson(longer, prompts), n=prompts),
        traits={trait: mean.value or 0.0 for trait, mean in sorted(count.traits.items())},
        principles=tuple(p.stats(id) for id, p in count.principles.items()),
        constitutions=dict(count.constitutions.most_common()),
        models=dict(count.models.most_common()),
        unjudged=dict(unjudged),
    )


def read_unjudged(labels: Path) -> dict[str, int]:
    """Reason → number of pairs, from the unjudged.jsonl beside a file of labels, if there is one,
    or from those of a folder of shards.

    Raises RecordError, naming the invalid line.
    """
    beside = labels.with_name("unjudged.jsonl")
    files = sorted((labels / "unjudged").glob("*.jsonl")) if labels.is_dir() else [beside]
    reasons: Counter[str] = Counter()
    for path in filter(Path.is_file, files):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    reasons[str(json.loads(line)["reason"])] += 1
                except (ValueError, KeyError, TypeError) as error:
                    raise RecordError(f"{path}:{number}: invalid unjudged pair: {error}") from error
    return dict(reasons.most_common())
