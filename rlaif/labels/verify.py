"""Does a label reproduce? From its own receipt without a model, and by asking the judge again.

    offline   p_k from the reads of principle k, p from all p_k and the weights: equal to what the
              label says, to 1e-9 (a receipt keeps every digit; only JSON and a sum are between)
    replay    the same prompts, computed anew: |Δ p| within what the judge's arithmetic allows

Where a read is repeated beside other requests, the engine sums in another order, and the two
log-probabilities move by some units in the last place of the logits. Logits lie around 16 to 32,
where bfloat16 (8 significant bits) has steps of 0.125 and float32 (24) of 2e-6. A step in one
label's logit moves P by up to a quarter of it, 0.03; a label is a mean over two orders and several
principles, whose steps rarely agree: 0.02 for bfloat16. float16 has 11 bits: an eighth of that.
float32: 0.001, far above its steps and below what a wrong prompt or model does.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

from constitution.schema import Constitution
from judge_service.judge.aggregation import trait_probs, weighted_prob
from judge_service.judge.label_probs import PROTOCOLS, prob_first
from judge_service.server_info import ServerInfo
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    Order,
    PrincipleVote,
    Provenance,
    Read,
    Unjudged,
)
from rlaif.data.records import Preference
from rlaif.feedback.labeler import LabelingClient
from rlaif.feedback.receipts import Receipt, comparison, parse_receipt, toward
from rlaif.labels.statistics import TraitWeights

EXACT = 1e-9
TOLERANCE = {"float32": 0.001, "float16": 0.0025, "bfloat16": 0.02}
"""Largest |Δ P| that repeating a read may make, by the judge's dtype; see the module's text."""


SHOWN = 20  # labels that a report names one by one; all are counted


# ── offline ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class OfflineReport:
    """What recomputing labels from their own reads found."""

    labels: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)  # of the wrong: which label, what differs
    without_weights: Counter[str] = field(default_factory=Counter)  # constitution → labels

    @property
    def passed(self) -> bool:
        return self.labels > 0 and not self.wrong


def verify_offline(labels: Iterable[Preference], trait_weights: TraitWeights) -> OfflineReport:
    """Recompute every label from the reads in its receipt.

    A label of several traits needs its constitution's trait weights; where that is not at hand it
    is counted in `without_weights`, and checked in all but the sum over its traits.
    """
    report = OfflineReport()
    for label in labels:
        found = parse_receipt(label)
        report.labels += 1
        weights = trait_weights(found.provenance.constitution_sha256)
        if weights is None and len({vote.trait for vote in found.votes}) > 1:
            report.without_weights[_law(found)] += 1
        elif weights is None:
            weights = {}  # of one trait it cancels out
        for name, said, computed in _parts(label, found, weights):
            if computed is None or not abs(said - computed) <= EXACT:
                report.wrong += 1
                if len(report.examples) < SHOWN:
                    given = "none" if computed is None else f"{computed:.9f}"
                    report.examples.append(
                        f"label {label.id!r}: {name} is {said:.9f}, recomputed {given}"
                    )
                break
    return report


def _parts(
    label: Preference, found: Receipt, weights: Mapping[str, float] | None
) -> Iterator[tuple[str, float, float | None]]:
    """(name, what is said, what the parts below it give), from the reads up to the label."""
    combine = PROTOCOLS.get(found.provenance.protocol)
    for vote in found.votes:
        for read in vote.reads:
            prob = prob_first(read.logprob_first, read.logprob_second)
            yield f"a read of {vote.principle_id}", read.prob_first, prob
        yield f"P(A) by {vote.principle_id}", vote.prob_a, combine(vote.reads) if combine else None
    a_chosen = found.chosen == "A"
    if found.votes and weights is not None:
        yield "P(A)", found.raw_prob_a, weighted_prob(found.votes, weights)
    if not found.provenance.calibration:
        yield "P(A), not calibrated,", found.prob_a, found.raw_prob_a
    for trait, prob in trait_probs(found.votes).items():
        said = label.traits.get(trait)
        if said is not None:
            yield f"P(chosen) by {trait}", said, toward(prob, a_chosen)
    yield "P(chosen)", label.prob_chosen, toward(found.prob_a, a_chosen)
    yield "P(chosen)", label.prob_chosen, max(found.prob_a, 1.0 - found.prob_a)


def _law(found: Receipt) -> str:
    origin = found.provenance
    return (
        f"{origin.constitution_name} {origin.constitution_version} "
        f"({origin.constitution_sha256[:12]})"
    )


# ── by asking again ──────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Replay:
    """What computing a sample of labels anew found. Differences are of labels that were recomputed;
    probabilities before calibration."""

    sampled: int = 0
    recomputed: int = 0
    tolerance: float = 0.0  # the widest that was applied
    beyond: int = 0  # labels whose |Δ P| is above the tolerance of their dtype
    largest: float = 0.0  # |Δ P|
    largest_id: str = ""
    mean: float = 0.0
    largest_logprob: float = 0.0  # |Δ log-probability| of a read, nats
    chosen_differs: int = 0
    asked_differently: int = 0  # labels with a read whose prompt is another to the token
    reads: int = 0
    no_constitution: Counter[str] = field(default_factory=Counter)  # not served → labels
    other_model: Counter[str] = field(default_factory=Counter)  # what differs → labels
    no_answer: Counter[str] = field(default_factory=Counter)  # why → labels

    @property
    def passed(self) -> bool:
        """All of the sample recomputed, by the same model, with the same prompts, within bounds."""
        return (
            self.recomputed == self.sampled > 0
            and not self.beyond
            and not self.asked_differently
            and not self.other_model
        )


def draw(labels: Iterable[Preference], size: int, seed: int) -> list[Preference]:
    """A seeded sample that hangs on the labels' ids alone, in one pass and memory for `size`."""

    def lot(label: Preference) -> bytes:
        return hashlib.sha256(f"{seed}\n{label.id}".encode("utf-8", "surrogatepass")).digest()

    return heapq.nsmallest(size, labels, key=lot)


def replay(
    labels: Sequence[Preference],
    client: LabelingClient,
    tolerance: float | None = None,
    laws: Iterable[Constitution] = (),
) -> Replay:
    """Ask the judge for these labels again, with its store set aside, and compare.

    tolerance: largest |Δ P|; None: by the dtype that the receipt names (`TOLERANCE`). laws: are
    sent along where the server lacks them and takes a request's own. A label whose constitution
    cannot be had, or that was read after a rationale (which the receipt cannot ask for again), is
    counted by its reason and fails the replay.
    """
    info = client.server_info()
    served: dict[str, str | Constitution] = {}
    if info.inline_constitutions:
        served.update((law.digest, law) for law in laws)
    served.update((offered.sha256, offered.name) for offered in info.constitutions)
    report = Replay(sampled=len(labels))
    asked: dict[tuple[str, JudgeOptions], list[tuple[Comparison, Receipt]]] = {}
    for label in labels:
        found = parse_receipt(label)
        sha256 = found.provenance.constitution_sha256
        if sha256 not in served:
            report.no_constitution[_law(found)] += 1
        elif any(read.rationale for vote in found.votes for read in vote.reads):
            report.no_answer["it was read after a rationale"] += 1
        else:
            differs = _differs(found.provenance, info)
            if differs:
                report.other_model[differs] += 1
            group = asked.setdefault((sha256, _options(found)), [])
            group.append((comparison(label, found), found))
    moved: list[float] = []
    for (sha256, options), group in asked.items():
        receipts = {pair.id: found for pair, found in group}
        pairs = [pair for pair, _ in group]
        for id, answer in client.stream(pairs, constitution=served[sha256], options=options):
            report.reads += answer.usage.reads
            if isinstance(answer, Unjudged):
                report.no_answer[f"{answer.reason.value}: {answer.detail}"] += 1
            else:
                moved.append(_compare(report, id, receipts[id], answer, tolerance))
    report.recomputed = len(moved)
    report.mean = fmean(moved) if moved else 0.0
    return report


def _options(found: Receipt) -> JudgeOptions:
    """What makes the judge ask the same again. Drawing as many principles as were asked draws the
    same ones; a lower minimum of the mass shows in reads that lie under today's."""
    origin = found.provenance
    masses = [read.label_mass for vote in found.votes for read in vote.reads]
    return JudgeOptions(
        orders=origin.orders,
        sample_principles=len(origin.principle_ids),
        seed=origin.seed,
        min_label_mass=min([JudgeOptions().min_label_mass, *(0.99 * mass for mass in masses)]),
        protocol=origin.protocol,
        use_store=False,
        interactive=False,
    )


def _differs(origin: Provenance, info: ServerInfo) -> str:
    """What the judge of now and that of the receipt do not share; "" when nothing."""
    now = {**(asdict(info.model) if info.model else {}), "template": info.template_version}
    then = {**asdict(origin.model), "template": origin.template_version}
    return ", ".join(
        f"{name} {_short(then[name])} then, {_short(now.get(name, 'none'))} now"
        for name in then
        if then[name] != now.get(name)
    )


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value


def _compare(
    report: Replay, id: str, then: Receipt, now: Judgment, tolerance: float | None
) -> float:
    """|Δ P| of the label, counted into the report."""
    raw = now.prob_a if now.raw_prob_a is None else now.raw_prob_a
    change = abs(raw - then.raw_prob_a)
    dtype = then.provenance.model.dtype.removeprefix("torch.")
    allowed = TOLERANCE.get(dtype, max(TOLERANCE.values())) if tolerance is None else tolerance
    report.tolerance = max(report.tolerance, allowed)
    report.beyond += change > allowed
    if change >= report.largest:
        report.largest, report.largest_id = change, id
    report.chosen_differs += (raw >= 0.5) != (then.raw_prob_a >= 0.5)
    reads = {_place(vote, read): read for vote in now.votes for read in vote.reads}
    differently = False
    for vote in then.votes:
        for read in vote.reads:
            again = reads.get(_place(vote, read))
            if again is None or again.prompt_sha256 != read.prompt_sha256:
                differently = True
            else:
                report.largest_logprob = max(
                    report.largest_logprob,
                    abs(again.logprob_first - read.logprob_first),
                    abs(again.logprob_second - read.logprob_second),
                )
    report.asked_differently += differently
    return change


def _place(vote: PrincipleVote, read: Read) -> tuple[str, Order]:
    return vote.principle_id, read.order
