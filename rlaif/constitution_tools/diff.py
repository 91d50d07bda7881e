"""Effect of an edit of a constitution on stored labels, without labeling again.

    p    = Σ_k ŵ_k p_k      under the old constitution, from the votes in the label's receipt
    p'   = Σ_k ŵ'_k p'_k    under the new one: votes are reused, or read if they are missing
    ŵ_k  = w_k t_k / Σ w t  effective weights, over the principles that voted on this pair
    flip                    p and p' are on different sides of one half
    Δp   = Σ_k [ŵ'_k (p'_k - ½) - ŵ_k (p_k - ½)]      exactly; each term is a principle's part

Only principles that are new, reworded, or newly in scope of a pair are read. Both probabilities are
uncalibrated: a calibration is specific to one constitution, and never crosses one half. A principle
that was not in a label's seeded sample stays out of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from constitution.errors import UserError
from constitution.schema import Constitution, Principle
from judge_service.server_info import ServerInfo
from judge_service.types import (
    Comparison,
    JudgeOptions,
    Judgment,
    ModelIdentity,
    Order,
    PrincipleVote,
    Unjudged,
    Usage,
)
from rlaif.data.records import Preference
from rlaif.evaluation.intervals import Estimate, by_prompt, share_estimate
from rlaif.feedback.labeler import LabelingClient, judge_pairs
from rlaif.feedback.receipts import Receipt, comparison, parse_receipt
from rlaif.labels.reaggregate import (
    Rejudged,
    changed_principles,
    keep_unchanged,
    rejudge,
    restrict_to,
    unanswered_principles,
)


class DifferenceError(UserError):
    """The labels cannot be compared under two constitutions; the message has the remedy."""


# Keys of a JSON report: scripts may match them.
OTHER_CONSTITUTION = "made under another constitution than OLD"
OTHER_JUDGE = "made by another judge than most"

# ── planning the reads ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """What the votes of one label must have in common."""

    model: ModelIdentity
    template_version: str
    protocol: str
    orders: tuple[Order, ...]

    @classmethod
    def of(cls, receipt: Receipt) -> JudgedBy:
        """How the label of this receipt was judged."""
        origin = receipt.provenance
        return cls(origin.model, origin.template_version, origin.protocol, origin.orders)

    def require_match(self, info: ServerInfo) -> None:
        """Raise DifferenceError if the server is another judge, whose votes are not comparable."""
        if info.model is None:
            raise DifferenceError("the judge is still loading its model; wait until it serves")
        for what, ours, theirs in (
            ("model", self.model.name, info.model.name),
            ("model's weights or engine", self.model, info.model),
            ("template", self.template_version, info.template_version),
        ):
            if ours != theirs:
                raise DifferenceError(
                    f"the labels were made by another judge: their {what} is {ours}, the server's "
                    f"{theirs}; use the judge that labeled, or label again with this one"
                )

    @property
    def options(self) -> JudgeOptions:
        """The options for reading the missing votes."""
        return JudgeOptions(
            orders=self.orders, protocol=self.protocol, calibrated=False, interactive=False
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A stored label with the votes in its receipt and the principles it lacks after the edit."""

    pair: Comparison
    votes: tuple[PrincipleVote, ...]  # all votes in the receipt
    missing: tuple[Principle, ...]  # of the new constitution, to be read


@dataclass(frozen=True, slots=True)
class Plan:
    """The usable labels, and what must be read for them."""

    old: Constitution
    new: Constitution
    judge: JudgedBy | None  # None if no label is usable
    labels: tuple[Label, ...]
    left_out: dict[str, int]  # reason → labels

    @property
    def reads(self) -> int:
        """Number of reads needed, including those that a journal or a store already has."""
        orders = len(self.judge.orders) if self.judge else 0
        return orders * sum(len(label.missing) for label in self.labels)

    @property
    def full_reads(self) -> int:
        """Number of reads to label the same pairs again with every principle."""
        orders = len(self.judge.orders) if self.judge else 0
        applying = (
            principle.applies_to(label.pair.conversation)
            for label in self.labels
            for principle in self.new.principles
        )
        return orders * sum(applying)


def plan(
    preferences: Sequence[Preference],
    old: Constitution,
    new: Constitution,
    limit: int | None = None,
) -> Plan:
    """Select the labels made by `old` (at most `limit`), and find out what each lacks under `new`.

    Labels of other constitutions or judges are left out and counted; the judge is that of most
    labels. Raises RecordError for an invalid receipt.
    """
    receipts = [(preference, parse_receipt(preference)) for preference in preferences]
    by_old = [(p, r) for p, r in receipts if r.provenance.constitution_sha256 == old.digest]
    judges = Counter(JudgedBy.of(receipt) for _, receipt in by_old)
    judge = max(judges, key=judges.__getitem__, default=None)
    usable = [(p, r) for p, r in by_old if JudgedBy.of(r) == judge]
    left_out = {
        OTHER_CONSTITUTION: len(receipts) - len(by_old),
        OTHER_JUDGE: len(by_old) - len(usable),
    }
    # Only now the limit: it counts usable labels.
    changed = changed_principles(old, new)
    return Plan(
        old=old,
        new=new,
        judge=judge,
        labels=tuple(_label(p, r, old, new, changed) for p, r in usable[:limit]),
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _label(
    preference: Preference,
    receipt: Receipt,
    old: Constitution,
    new: Constitution,
    changed: Sequence[str],
) -> Label:
    # Principles that the label's seeded sample left out count as answered: they stay out.
    read = set(receipt.provenance.principle_ids)
    not_drawn = {p.id for p in old.principles if p.applies_to(preference.prompt)} - read
    answered = (read - set(changed)) | not_drawn
    return Label(
        pair=comparison(preference, receipt),
        votes=receipt.votes,
        missing=unanswered_principles(new, preference.prompt, answered),
    )


def missing_reads(planned: Plan) -> list[tuple[Constitution, list[Comparison]]]:
    """(constitution, pairs): pairs that lack the same principles, and these as a constitution."""
    groups: dict[tuple[str, ...], tuple[Constitution, list[Comparison]]] = {}
    for label in planned.labels:
        if label.missing:
            names = tuple(principle.id for principle in label.missing)
            _, pairs = groups.setdefault(names, (restrict_to(planned.new, label.missing), []))
            pairs.append(label.pair)
    return list(groups.values())


# ── comparing ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Move:
    """One label under both constitutions; probabilities are of response A of `pair`."""

    pair: Comparison
    old: Rejudged
    new: Rejudged
    parts: dict[str, float]  # principle id → its part of Δp; the parts add up to Δp

    @property
    def delta(self) -> float:
        """Δp, the change of P(A is better) from the old constitution to the new one."""
        return self.new.prob_a - self.old.prob_a

    @property
    def flips(self) -> bool:
        """Whether the label chooses the other response; at exactly ½ it chooses A."""
        return (self.old.prob_a >= 0.5) != (self.new.prob_a >= 0.5)

    @property
    def sureness(self) -> float:
        """Distance of the less confident of the two labels from one half, in [0, 0.5]."""
        return min(abs(self.old.prob_a - 0.5), abs(self.new.prob_a - 0.5))

    @property
    def moved_by(self) -> str:
        """The principle with the largest part in the direction of the move."""
        return max(self.parts, key=lambda name: self.parts[name] * (1 if self.delta > 0 else -1))


@dataclass(frozen=True, slots=True)
class TraitDifference:
    """The effect of an edit on one trait."""

    trait: str
    labels: int  # with this trait under both constitutions
    flips: int
    mean_move: float  # mean |Δp| of the trait's own probability


@dataclass(frozen=True, slots=True)
class Difference:
    """All labels under both constitutions, with summary statistics."""

    moves: tuple[Move, ...]
    unlabeled: dict[str, int]  # reason why a label cannot be compared → labels

    @property
    def flips(self) -> tuple[Move, ...]:
        """The labels that flip, the most confident first."""
        flips = [move for move in self.moves if move.flips]
        return tuple(sorted(flips, key=lambda move: -move.sureness))

    @property
    def flip_share(self) -> Estimate | None:
        """Share of flipped labels, with Wilson's 95 % interval by prompt; None without labels."""
        values = by_prompt((move.pair.conversation, float(move.flips)) for move in self.moves)
        return share_estimate(values) if values else None

    @property
    def move_quantiles(self) -> tuple[float, float, float] | None:
        """Median, 90th percentile and largest |Δp|; None without labels."""
        sizes = sorted(abs(move.delta) for move in self.moves)
        if not sizes:
            return None
        return median(sizes), sizes[math.ceil(0.9 * len(sizes)) - 1], sizes[-1]

    @property
    def traits(self) -> tuple[TraitDifference, ...]:
        """The effect on each trait that labels have under both constitutions."""
        names = sorted({trait for move in self.moves for trait in move.old.trait_probs})
        return tuple(trait for name in names if (trait := self._trait(name)))

    def _trait(self, name: str) -> TraitDifference | None:
        both = [
            (move.old.trait_probs[name], move.new.trait_probs[name])
            for move in self.moves
            if name in move.old.trait_probs and name in move.new.trait_probs
        ]
        if not both:
            return None
        flips = sum((old >= 0.5) != (new >= 0.5) for old, new in both)
        return TraitDifference(name, len(both), flips, fmean(abs(new - old) for old, new in both))


def summary(difference: Difference, show: int) -> dict[str, Any]:
    """The difference for JSON, with the `show` most confident flips."""
    share, sizes = difference.flip_share, difference.move_quantiles
    return {
        "compared": len(difference.moves),
        "unlabeled": difference.unlabeled,
        "flips": len(difference.flips),
        "flip_share": share and asdict(share),
        "move": sizes and dict(zip(("median", "nine_in_ten", "largest"), sizes, strict=True)),
        "traits": [asdict(trait) for trait in difference.traits],
        "most_confident": [
            {
                "id": move.pair.id,
                "prompt": [message.model_dump() for message in move.pair.conversation],
                "response_a": move.pair.response_a,
                "response_b": move.pair.response_b,
                "old_prob_a": move.old.prob_a,
                "new_prob_a": move.new.prob_a,
                "moved_by": move.moved_by,
                "parts": move.parts,
            }
            for move in difference.flips[:show]
        ],
    }


def compare_labels(planned: Plan, fresh: Mapping[str, Judgment | Unjudged]) -> Difference:
    """Every label under both constitutions. fresh: pair id → answer to `missing_reads`."""
    moves, unlabeled = [], Counter[str]()
    for label in planned.labels:
        answer = fresh.get(label.pair.id)
        if label.missing and not isinstance(answer, Judgment):
            reason = answer.reason.value if answer else "not asked"
            unlabeled[f"the new votes could not be read ({reason})"] += 1
            continue
        votes = answer.votes if isinstance(answer, Judgment) else ()
        move = _move(label, votes, planned.old, planned.new)
        if move is None:
            unlabeled["one of the two constitutions has no vote on it"] += 1
        else:
            moves.append(move)
    return Difference(tuple(moves), dict(unlabeled))


def _move(
    label: Label, fresh: Sequence[PrincipleVote], old: Constitution, new: Constitution
) -> Move | None:
    conversation = label.pair.conversation
    kept = keep_unchanged(label.votes, changed_principles(old, new))
    before = rejudge(label.votes, (), old, conversation)
    after = rejudge(kept, fresh, new, conversation)
    if before is None or after is None:
        return None
    pulls, new_pulls = _pulls(before.votes, old), _pulls(after.votes, new)
    names = {**pulls, **new_pulls}  # a dict, to keep their order
    parts = {name: new_pulls.get(name, 0.0) - pulls.get(name, 0.0) for name in names}
    return Move(label.pair, before, after, parts)


def _pulls(votes: Sequence[PrincipleVote], constitution: Constitution) -> dict[str, float]:
    """Principle id → ŵ_k (p_k - ½)."""
    weights = [vote.weight * constitution.trait_weights[vote.trait] for vote in votes]
    total = sum(weights)
    return {
        vote.principle_id: weight / total * (vote.prob_a - 0.5)
        for vote, weight in zip(votes, weights, strict=True)
    }


# ── reading ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fresh:
    """Pair id → answer to `missing_reads`, and the judge's usage in this call."""

    answers: Mapping[str, Judgment | Unjudged] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


def read_missing(planned: Plan, client: LabelingClient, journal_file: Path) -> Fresh:
    """Read what the labels lack; after a kill, only the rest is read.

    Raises DifferenceError when the judge is not that of the labels, and as `judge_pairs`.
    """
    if planned.judge is None:
        return Fresh()
    planned.judge.require_match(client.server_info())
    answers: dict[str, Judgment | Unjudged] = {}
    usage = Usage()
    options = planned.judge.options
    for part, pairs in missing_reads(planned):
        judged = judge_pairs(pairs, client, journal_file, constitution=part, options=options)
        answers.update((pair.id, answer) for pair, answer in judged.by_pair())
        usage += judged.usage
    return Fresh(answers, usage)
