"""A calibration or a reader applied to existing labels, without a read.

    receipt ─ votes, lengths ─► calibration ─► prob_a and traits, another receipt ─► label

What the label was calibrated by before is replaced, since every receipt keeps its reads. A reader
may change which response is chosen. The calibration must have been fitted for the receipt's setup,
to the digest: another constitution, model, template or protocol is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from judge_service.judge import aggregation
from judge_service.judge.calibration import Calibration, CalibrationError, read_calibrations
from judge_service.judge.reader import Lengths
from judge_service.types import Comparison, Judgment, Usage
from rlaif.data.records import Preference
from rlaif.feedback.receipts import Receipt, comparison, parse_receipt, preference


@dataclass(slots=True)
class Recalibrated:
    """How many labels were rewritten, and how many of them now choose the other response."""

    labels: int = 0
    changed: int = 0


def recalibrate(label: Preference, calibration: Calibration) -> Preference:
    """The label as the judge would have made it with this calibration.

    Raises CalibrationError when it was fitted for another setup, or the label was not read
    directly and in both orders; RecordError without a readable receipt.
    """
    receipt = parse_receipt(label)
    origin = receipt.provenance
    if difference := calibration.unfit_for(origin):
        raise CalibrationError(
            f"label {label.id!r}: the calibration was fitted for another setup: {difference}; "
            "give one that was fitted for these labels"
        )
    reads = [read for vote in receipt.votes for read in vote.reads]
    if len(origin.orders) != 2 or any(read.rationale for read in reads):
        raise CalibrationError(
            f"label {label.id!r} was read in one order or after a rationale, which no calibration "
            "is fitted for; leave such labels out"
        )
    return _rewritten(comparison(label, receipt), receipt, calibration)


def _rewritten(pair: Comparison, receipt: Receipt, calibration: Calibration) -> Preference:
    prob_a, trait_probs = calibration.apply(
        receipt.raw_prob_a,
        aggregation.trait_probs(receipt.votes),
        receipt.votes,
        Lengths.of(pair.response_a, pair.response_b),
    )
    judgment = Judgment(
        verdict=aggregation.verdict(prob_a, 0.0),
        prob_a=prob_a,
        trait_probs=trait_probs,
        votes=receipt.votes,
        position_consistent=receipt.position_consistent,
        order_gap=receipt.order_gap,
        provenance=calibration.recorded_in(replace(receipt.provenance, calibration="", reader="")),
        usage=Usage(),  # a receipt has none
        seconds=0.0,
        raw_prob_a=receipt.raw_prob_a,
        spread=receipt.spread,
    )
    return preference(pair, judgment)


def recalibrate_all(
    labels: Iterable[Preference], calibration: Calibration, counts: Recalibrated
) -> Iterator[Preference]:
    """Every label, recalibrated; `counts` is updated as they are taken."""
    for label in labels:
        new = recalibrate(label, calibration)
        counts.labels += 1
        counts.changed += new.chosen != label.chosen
        yield new


def find_calibration(file: Path, label: Preference) -> Calibration:
    """The calibration in a file that was fitted for this label's setup.

    Raises CalibrationError, saying what each of the others was fitted for.
    """
    origin = parse_receipt(label).provenance
    calibrations: Sequence[Calibration] = read_calibrations(file)
    differences = [calibration.unfit_for(origin) for calibration in calibrations]
    if "" in differences:
        return calibrations[differences.index("")]
    what = "; ".join(differences) or "it holds none"
    raise CalibrationError(
        f"{file}: no calibration for the setup of these labels ({what}); fit one with "
        "`rlaif judge calibrate` or `rlaif judge promote`"
    )
