"""Verification of labels: from their receipts without a model, or by judging them again.

    offline   p_k from the reads of principle k, p from all p_k and the weights: equal to the label
              within 1e-9 (receipts keep every digit; only JSON and a sum are in between); with the
              calibration or reader that the receipt names, the label made by it, too; and which
              responses were cut off, as the receipt has it
    replay    the same prompts, computed again: |Δ p| within the tolerance of the judge's arithmetic

When a read is repeated in a batch with other requests, the engine sums in another order, and both
log-probabilities change by some units in the last place of the logits. Logits are around 16 to 32,
where bfloat16 (8 significant bits) has steps of 0.125 and float32 (24) of 2e-6. A step in one
label's logit changes P by up to a quarter of it, 0.03; a label is a mean over two orders and
several principles, whose steps rarely agree, hence 0.02 for bfloat16. float16 has 11 bits: an
eighth of that. float32: 0.001, far above its steps and below the effect of a wrong prompt or model.
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
from judge_service.judge.calibration import Calibration
from judge_service.judge.label_probs import PROTOCOLS, prob_first
from judge_service.judge.reader import Lengths
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
"""Largest acceptable |Δ P| of a repeated label, by the judge's dtype; see the module docstring."""


SHOWN = 20  # labels listed in a report; all are counted


# ── offline ──────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class OfflineReport:
    """The result of recomputing labels from their own reads."""

    labels: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)  # of the wrong ones: label and difference
    without_weights: Counter[str] = field(default_factory=Counter)  # constitution → labels

    @property
    def passed(self) -> bool:
        """Whether there were labels, and all agree with their reads."""
        return self.labels > 0 and not self.wrong


def verify_offline(
    labels: Iterable[Preference],
    trait_weights: TraitWeights,
    calibrations: Iterable[Calibration] = (),
) -> OfflineReport:
    """Recompute every label from the reads in its receipt.

    calibrations: those that receipts may name by digest. Of a label by another one, only what comes
    before calibration is recomputed.

    A label of several traits needs the trait weights of its constitution. If that is not available,
    the label is counted in `without_weights`, and checked except for the sum over its traits.
    """
    report = OfflineReport()
    by_digest = {calibration.sha256: calibration for calibration in calibrations}
    for label in labels:
        receipt = parse_receipt(label)
        report.labels += 1
        weights = trait_weights(receipt.provenance.constitution_sha256)
        if weights is None and len({vote.trait for vote in receipt.votes}) > 1:
            report.without_weights[_constitution(receipt)] += 1
        elif weights is None:
            weights = {}  # a single trait's weight cancels out
        difference = _other_ending(label, receipt) or _other_number(
            label, receipt, weights, by_digest
        )
        if difference:
            report.wrong += 1
            if len(report.examples) < SHOWN:
                report.examples.append(f"label {label.id!r}: {difference}")
    return report


def _other_ending(label: Preference, receipt: Receipt) -> str:
    """A response that ended otherwise than its receipt says; "" if there is none."""
    a_chosen = receipt.chosen == "A"
    chosen, rejected = label.chosen_complete, label.rejected_complete
    of_label = (chosen, rejected) if a_chosen else (rejected, chosen)
    names = ("chosen", "rejected") if a_chosen else ("rejected", "chosen")
    of_receipt = receipt.complete_a, receipt.complete_b
    for name, recorded, then in zip(names, of_label, of_receipt, strict=True):
        if then is not None and then != recorded:
            ended = {True: "ended by itself", False: "was cut off"}
            return f"the {name} response {ended[recorded]}, by its receipt it {ended[then]}"
    return ""


def _other_number(
    label: Preference,
    receipt: Receipt,
    weights: Mapping[str, float] | None,
    calibrations: Mapping[str, Calibration],
) -> str:
    """The first number that differs from its inputs, since all computed from it differ too; ""
    if there is none."""
    for name, recorded, computed in _parts(label, receipt, weights, calibrations):
        if computed is None or not abs(recorded - computed) <= EXACT:
            shown = "none" if computed is None else f"{computed:.9f}"
            return f"{name} is {recorded:.9f}, recomputed {shown}"
    return ""


def _parts(
    label: Preference,
    receipt: Receipt,
    weights: Mapping[str, float] | None,
    calibrations: Mapping[str, Calibration],
) -> Iterator[tuple[str, float, float | None]]:
    """(name, recorded value, value computed from its inputs), from the reads up to the label."""
    combine = PROTOCOLS.get(receipt.provenance.protocol)
    for vote in receipt.votes:
        for read in vote.reads:
            prob = prob_first(read.logprob_first, read.logprob_second)
            yield f"a read of {vote.principle_id}", read.prob_first, prob
        yield f"P(A) by {vote.principle_id}", vote.prob_a, combine(vote.reads) if combine else None
    if receipt.votes and weights is not None:
        yield "P(A)", receipt.raw_prob_a, weighted_prob(receipt.votes, weights)
    yield from _calibrated_parts(label, receipt, calibrations)
    yield "P(chosen)", label.prob_chosen, toward(receipt.prob_a, receipt.chosen == "A")
    yield "P(chosen)", label.prob_chosen, max(receipt.prob_a, 1.0 - receipt.prob_a)


def _calibrated_parts(
    label: Preference, receipt: Receipt, calibrations: Mapping[str, Calibration]
) -> Iterator[tuple[str, float, float | None]]:
    """What the label and its traits are after calibration, as far as it is known."""
    a_chosen, origin = receipt.chosen == "A", receipt.provenance
    digest = origin.reader or origin.calibration
    applied, prob_a, traits = (
        calibrations.get(digest),
        receipt.raw_prob_a,
        trait_probs(receipt.votes),
    )
    if applied is not None:
        pair = comparison(label, receipt)
        lengths = Lengths.of(pair.response_a, pair.response_b)
        prob_a, traits = applied.apply(prob_a, traits, receipt.votes, lengths)
    if applied is not None or not digest:
        yield f"P(A), {'' if digest else 'not '}calibrated,", receipt.prob_a, prob_a
    for trait, prob in traits.items():
        recorded, computed = label.traits.get(trait), toward(prob, a_chosen)
        if recorded is None:
            continue
        if applied is not None or not digest:
            yield f"P(chosen) by {trait}", recorded, computed
        # A curve, which is not in the receipt, leaves every probability on its side; a reader may
        # not.
        elif origin.calibration and (recorded - 0.5) * (computed - 0.5) < 0:
            yield f"P(chosen) by {trait}, before calibration,", recorded, computed


def _constitution(receipt: Receipt) -> str:
    origin = receipt.provenance
    return (
        f"{origin.constitution_name} {origin.constitution_version} "
        f"({origin.constitution_sha256[:12]})"
    )


# ── by judging again ─────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Replay:
    """The result of judging a sample of labels again. Differences are over the recomputed labels,
    and of probabilities before calibration."""

    sampled: int = 0
    recomputed: int = 0
    tolerance: float = 0.0  # the largest that was applied
    beyond: int = 0  # labels whose |Δ P| is above the tolerance of their dtype
    largest: float = 0.0  # |Δ P|
    largest_id: str = ""
    mean: float = 0.0
    largest_logprob: float = 0.0  # |Δ log-probability| of a read, nats
    chosen_differs: int = 0
    asked_differently: int = 0  # labels with a read whose prompt is not the same
    reads: int = 0
    no_constitution: Counter[str] = field(default_factory=Counter)  # unavailable one → labels
    other_model: Counter[str] = field(default_factory=Counter)  # what differs → labels
    no_answer: Counter[str] = field(default_factory=Counter)  # reason → labels

    @property
    def passed(self) -> bool:
        """Whether all of the sample was recomputed, by equal model and prompts, in tolerance."""
        return (
            self.recomputed == self.sampled > 0
            and not self.beyond
            and not self.asked_differently
            and not self.other_model
        )


def draw(labels: Iterable[Preference], size: int, seed: int) -> list[Preference]:
    """A seeded sample that depends only on the labels' ids; one pass, memory for `size` labels."""

    def sort_key(label: Preference) -> bytes:
        return hashlib.sha256(f"{seed}\n{label.id}".encode("utf-8", "surrogatepass")).digest()

    return heapq.nsmallest(size, labels, key=sort_key)


def replay(
    labels: Sequence[Preference],
    client: LabelingClient,
    tolerance: float | None = None,
    constitutions: Iterable[Constitution] = (),
) -> Replay:
    """Judge these labels again, without the server's store, and compare.

    tolerance: largest |Δ P|; None: by the dtype in the receipt (`TOLERANCE`). constitutions: sent
    along if the server lacks them and accepts inline constitutions. A label whose constitution is
    not available, or that was read after a rationale (which cannot be reproduced from the receipt),
    is counted by its reason and fails the replay.
    """
    info = client.server_info()
    served: dict[str, str | Constitution] = {}
    if info.inline_constitutions:
        served.update((constitution.digest, constitution) for constitution in constitutions)
    served.update((summary.sha256, summary.name) for summary in info.constitutions)
    report = Replay(sampled=len(labels))
    # One stream takes one constitution and one set of options, so labels are grouped by both.
    groups: dict[tuple[str, JudgeOptions], list[tuple[Comparison, Receipt]]] = {}
    for label in labels:
        receipt = parse_receipt(label)
        sha256 = receipt.provenance.constitution_sha256
        if sha256 not in served:
            report.no_constitution[_constitution(receipt)] += 1
        elif any(read.rationale for vote in receipt.votes for read in vote.reads):
            report.no_answer["it was read after a rationale"] += 1
        else:
            difference = _difference(receipt.provenance, info)
            if difference:
                report.other_model[difference] += 1
            group = groups.setdefault((sha256, _options(receipt)), [])
            group.append((comparison(label, receipt), receipt))
    changes: list[float] = []
    for (sha256, options), group in groups.items():
        receipts = {pair.id: receipt for pair, receipt in group}
        pairs = [pair for pair, _ in group]
        for id, answer in client.stream(pairs, constitution=served[sha256], options=options):
            report.reads += answer.usage.reads
            if isinstance(answer, Unjudged):
                report.no_answer[f"{answer.reason.value}: {answer.detail}"] += 1
            else:
                changes.append(_compare(report, id, receipts[id], answer, tolerance))
    report.recomputed = len(changes)
    report.mean = fmean(changes) if changes else 0.0
    return report


def _options(receipt: Receipt) -> JudgeOptions:
    """The options that reproduce the receipt's reads. Drawing as many principles as then draws the
    same ones; reads below today's minimum label mass show that a lower minimum was used."""
    origin = receipt.provenance
    masses = [read.label_mass for vote in receipt.votes for read in vote.reads]
    return JudgeOptions(
        orders=origin.orders,
        sample_principles=len(origin.principle_ids),
        seed=origin.seed,
        min_label_mass=min([JudgeOptions().min_label_mass, *(0.99 * mass for mass in masses)]),
        protocol=origin.protocol,
        use_store=False,
        interactive=False,
    )


def _difference(origin: Provenance, info: ServerInfo) -> str:
    """How the judge differs from that of the receipt; "" if it does not."""
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
    """The |Δ P| of a label; updates the report."""
    raw = now.prob_a if now.raw_prob_a is None else now.raw_prob_a
    change = abs(raw - then.raw_prob_a)
    dtype = then.provenance.model.dtype.removeprefix("torch.")
    allowed = TOLERANCE.get(dtype, max(TOLERANCE.values())) if tolerance is None else tolerance
    report.tolerance = max(report.tolerance, allowed)
    report.beyond += change > allowed
    if change >= report.largest:
        report.largest, report.largest_id = change, id
    report.chosen_differs += (raw >= 0.5) != (then.raw_prob_a >= 0.5)
    # Read by read: only those of equal prompts can be compared.
    reads = {_read_key(vote, read): read for vote in now.votes for read in vote.reads}
    other_prompt = False
    for vote in then.votes:
        for read in vote.reads:
            again = reads.get(_read_key(vote, read))
            if again is None or again.prompt_sha256 != read.prompt_sha256:
                other_prompt = True
            else:
                report.largest_logprob = max(
                    report.largest_logprob,
                    abs(again.logprob_first - read.logprob_first),
                    abs(again.logprob_second - read.logprob_second),
                )
    report.asked_differently += other_prompt
    return change


def _read_key(vote: PrincipleVote, read: Read) -> tuple[str, Order]:
    return vote.principle_id, read.order
