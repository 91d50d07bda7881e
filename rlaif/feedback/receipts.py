"""Receipts: a judgment as a label with its receipt, and back.

    Judgment ─ preference ─► Preference(…, receipt: JSON) ─ parse_receipt ─► Receipt

A receipt records the judge, the constitution, and every read with its prompt's digest: enough to
recompute the label without a model, to judge the pair again, and to show where the label came from.
It calls the responses A and B; `chosen` names the one the judge chose. Fields may be added: older
receipts without them are parsed with the defaults of `judge_service.types`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from constitution.schema import Message
from constitution.validation import field_problems
from judge_service.types import Comparison, Judgment, PrincipleVote, Provenance, Verdict
from rlaif.data.records import Preference, RecordError


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The part of a receipt besides the provenance; the field names are those of the JSON."""

    chosen: Literal["A", "B"]
    verdict: Verdict
    prob_a: float
    votes: tuple[PrincipleVote, ...]
    order_gap: float | None = None
    position_consistent: bool | None = None
    raw_prob_a: float | None = None
    spread: float = 0.0
    complete_a: bool | None = None
    complete_b: bool | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The origin of a label: who judged it, and how. The fields are those of `Judgment`, and of the
    `Comparison` whether each response ended by itself."""

    chosen: Literal["A", "B"]  # which response the label calls chosen
    provenance: Provenance
    verdict: Verdict
    prob_a: float  # calibrated where provenance.calibration says so
    raw_prob_a: float  # before calibration
    votes: tuple[PrincipleVote, ...]
    order_gap: float | None
    position_consistent: bool | None
    spread: float
    complete_a: bool | None = None  # ended by itself; None: a receipt of before does not say
    complete_b: bool | None = None


_JUDGMENT, _OUTCOME = TypeAdapter(Judgment), TypeAdapter(_Outcome)
_PROVENANCE = TypeAdapter(Provenance)


def receipt(pair: Comparison, judgment: Judgment) -> dict[str, Any]:
    """The receipt of a judgment as JSON values: all of its fields but usage and time, and which
    responses of the pair ended by themselves."""
    fields: dict[str, Any] = _JUDGMENT.dump_python(judgment, mode="json")
    kept = ("verdict", "prob_a", "raw_prob_a", "spread", "order_gap", "position_consistent")
    return {
        "chosen": "A" if judgment.prob_a >= 0.5 else "B",
        **fields["provenance"],
        **{name: fields[name] for name in kept},
        "complete_a": pair.complete_a,
        "complete_b": pair.complete_b,
        "votes": fields["votes"],
    }


def preference(pair: Comparison, judgment: Judgment) -> Preference:
    """A label: the judged pair, ordered, with its receipt. At exactly ½, A is the chosen one."""
    a_chosen = judgment.prob_a >= 0.5
    a = pair.response_a, pair.complete_a, pair.end_token_a
    b = pair.response_b, pair.complete_b, pair.end_token_b
    chosen, rejected = (a, b) if a_chosen else (b, a)
    return Preference(
        id=pair.id,
        prompt=pair.conversation,
        chosen=(Message(role="assistant", content=chosen[0]),),
        rejected=(Message(role="assistant", content=rejected[0]),),
        prob_chosen=toward(judgment.prob_a, a_chosen),
        traits={trait: toward(p, a_chosen) for trait, p in judgment.trait_probs.items()},
        chosen_complete=chosen[1],
        rejected_complete=rejected[1],
        chosen_end_token=chosen[2],
        rejected_end_token=rejected[2],
        receipt=json.dumps(receipt(pair, judgment), ensure_ascii=False),
    )


def toward(prob_a: float, a_chosen: bool) -> float:
    """Convert P(A is better) to P(chosen is better), or back."""
    return prob_a if a_chosen else 1.0 - prob_a


def parse_receipt(label: Preference) -> Receipt:
    """The label's receipt. Raises RecordError, which names the label and the invalid field."""
    if not label.receipt:
        raise RecordError(f"label {label.id!r} has no receipt; use labels written by rlaif label")
    try:
        outcome = _OUTCOME.validate_json(label.receipt)
        provenance = _PROVENANCE.validate_json(label.receipt)
    except ValidationError as error:
        problem = field_problems(error, noun="field")[0]
        raise RecordError(
            f"label {label.id!r}: its receipt cannot be read: {problem.field or 'receipt'}: "
            f"{problem.message}; label this pair again"
        ) from error
    return Receipt(
        chosen=outcome.chosen,
        provenance=provenance,
        verdict=outcome.verdict,
        prob_a=outcome.prob_a,
        raw_prob_a=outcome.prob_a if outcome.raw_prob_a is None else outcome.raw_prob_a,
        votes=outcome.votes,
        order_gap=outcome.order_gap,
        position_consistent=outcome.position_consistent,
        spread=outcome.spread,
        complete_a=outcome.complete_a,
        complete_b=outcome.complete_b,
    )


def comparison(label: Preference, receipt: Receipt) -> Comparison:
    """The pair with its responses as A and B, as the judge read it."""
    chosen = label.chosen_text, label.chosen_complete, label.chosen_end_token
    rejected = label.rejected_text, label.rejected_complete, label.rejected_end_token
    a, b = (chosen, rejected) if receipt.chosen == "A" else (rejected, chosen)
    return Comparison(
        label.id, label.prompt, a[0], b[0],
        complete_a=a[1], complete_b=b[1], end_token_a=a[2], end_token_b=b[2],
    )  # fmt: skip
