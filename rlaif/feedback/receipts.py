"""A judgment as a label with its receipt, and back.

    Judgment ─ preference ─► Preference(…, receipt: JSON) ─ parse_receipt ─► Receipt

A receipt says who judged, by which law, and every read with what was asked: enough to recompute
the label without a model, to ask for it again, and to tell where it came from. Responses are called
A and B in it; `chosen` says which of the two the judge chose. Fields may be added, and an older
receipt without them is read with the defaults of `judge_service.types`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from constitution.schema import Message
from judge_service.types import Comparison, Judgment, PrincipleVote, Provenance, Verdict
from rlaif.data.records import Preference, RecordError


@dataclass(frozen=True, slots=True)
class _Found:
    """What a receipt holds beside the provenance; names and order of the JSON."""

    chosen: Literal["A", "B"]
    verdict: Verdict
    prob_a: float
    votes: tuple[PrincipleVote, ...]
    order_gap: float | None = None
    position_consistent: bool | None = None
    raw_prob_a: float | None = None
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a label came from. The fields are those of `Judgment`."""

    chosen: Literal["A", "B"]  # which response the label calls chosen
    provenance: Provenance
    verdict: Verdict
    prob_a: float  # calibrated where provenance.calibration says so
    raw_prob_a: float  # before calibration
    votes: tuple[PrincipleVote, ...]
    order_gap: float | None
    position_consistent: bool | None
    spread: float


_JUDGMENT, _FOUND = TypeAdapter(Judgment), TypeAdapter(_Found)
_PROVENANCE = TypeAdapter(Provenance)


def receipt(judgment: Judgment) -> dict[str, Any]:
    """The judgment as what its label keeps: all but what it cost."""
    found: dict[str, Any] = _JUDGMENT.dump_python(judgment, mode="json")
    kept = ("verdict", "prob_a", "raw_prob_a", "spread", "order_gap", "position_consistent")
    return {
        "chosen": "A" if judgment.prob_a >= 0.5 else "B",
        **found["provenance"],
        **{name: found[name] for name in kept},
        "votes": found["votes"],
    }


def preference(pair: Comparison, judgment: Judgment) -> Preference:
    """The judgment as an ordered pair with its receipt; an exact ½ calls A chosen."""
    a_chosen = judgment.prob_a >= 0.5
    chosen, rejected = (
        (pair.response_a, pair.response_b) if a_chosen else (pair.response_b, pair.response_a)
    )
    return Preference(
        id=pair.id,
        prompt=pair.conversation,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        prob_chosen=toward(judgment.prob_a, a_chosen),
        traits={trait: toward(p, a_chosen) for trait, p in judgment.trait_probs.items()},
        receipt=json.dumps(receipt(judgment), ensure_ascii=False),
    )


def toward(prob_a: float, a_chosen: bool) -> float:
    """P(A is better) as P(chosen is better), and back."""
    return prob_a if a_chosen else 1.0 - prob_a


def parse_receipt(label: Preference) -> Receipt:
    """The label's receipt. Raises RecordError naming the label and the field that is wrong."""
    if not label.receipt:
        raise RecordError(f"label {label.id!r} has no receipt; labels of rlaif label have one")
    try:
        found = _FOUND.validate_json(label.receipt)
        provenance = _PROVENANCE.validate_json(label.receipt)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "receipt"
        raise RecordError(
            f"label {label.id!r}: its receipt cannot be read: {field}: {first['msg']}; "
            "label this pair again"
        ) from error
    return Receipt(
        chosen=found.chosen,
        provenance=provenance,
        verdict=found.verdict,
        prob_a=found.prob_a,
        raw_prob_a=found.prob_a if found.raw_prob_a is None else found.raw_prob_a,
        votes=found.votes,
        order_gap=found.order_gap,
        position_consistent=found.position_consistent,
        spread=found.spread,
    )


def comparison(label: Preference, found: Receipt) -> Comparison:
    """The pair as it was put before the judge."""
    chosen, rejected = label.chosen_text, label.rejected_text
    a, b = (chosen, rejected) if found.chosen == "A" else (rejected, chosen)
    return Comparison(label.id, label.prompt, a, b)
