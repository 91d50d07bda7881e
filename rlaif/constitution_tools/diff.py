"""What an edit of a constitution does to stored labels, before anything is labeled again.

    p    = Σ_k ŵ_k p_k      under the old constitution, from the votes of the label's receipt
    p'   = Σ_k ŵ'_k p'_k    under the new one: votes taken over, or read anew where they must
    ŵ_k  = w_k t_k / Σ w t  the weights in effect, over the principles that voted on this pair
    flip                    p and p' lie on different sides of one half
    Δp   = Σ_k [ŵ'_k (p'_k - ½) - ŵ_k (p_k - ½)]      exactly: each principle's part in the move

Only principles that are new, reworded, or reach a pair for the first time are read. Both
probabilities are uncalibrated: a calibration belongs to one constitution, and moves none of them
across one half. A principle that a label's seeded sample left out stays left out.
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
from rlaif.feedback.labeler import LabelingClient, ask
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
    """Labels that cannot be compared under two constitutions: why, and the remedy."""


OTHER_LAW = "made under another constitution than OLD"
OTHER_JUDGE = "made by another judge than most"

# ── what has to be read ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """What votes must have in common to stand in one label."""

    model: ModelIdentity
    template_version: str
    protocol: str
    orders: tuple[Order, ...]

    @classmethod
    def of(cls, receipt: Receipt) -> JudgedBy:
        made = receipt.provenance
        return cls(made.model, made.template_version, made.protocol, made.orders)

    def must_be(self, info: ServerInfo) -> None:
        """Raises DifferenceError when another judge would answer: votes would not be comparable."""
        if info.model is None:
            raise DifferenceError("the judge is still loading its model; wait until it serves")
        for what, mine, its in (
            ("model", self.model.name, info.model.name),
            ("model's weights or engine", self.model, info.model),
            ("template", self.template_version, info.template_version),
        ):
            if mine != its:
                raise DifferenceError(
                    f"the labels were not made by this judge: their {what} is {mine}, the server's "
                    f"{its}; ask the one that labeled, or label again with this one"
                )

    @property
    def options(self) -> JudgeOptions:
        """Those with which the missing votes are to be asked."""
        return JudgeOptions(
            orders=self.orders, protocol=self.protocol, calibrated=False, interactive=False
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A stored label with what its receipt still proves and what the edit makes it lack."""

    pair: Comparison
    votes: tuple[PrincipleVote, ...]  # all of the receipt
    lacking: tuple[Principle, ...]  # of the new constitution, to be read


@dataclass(frozen=True, slots=True)
class Plan:
    """The labels that can be used, and what has to be read for them."""

    old: Constitution
    new: Constitution
    judge: JudgedBy | None  # None: no label can be used
    labels: tuple[Label, ...]
    left_out: dict[str, int]  # reason → labels

    @property
    def reads(self) -> int:
        """Label-token readings wanted, before what a journal or a store already holds."""
        orders = len(self.judge.orders) if self.judge else 0
        return orders * sum(len(label.lacking) for label in self.labels)

    @property
    def full_reads(self) -> int:
        """Those of labeling the same pairs again with every principle."""
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
    """Raises RecordError when a label's receipt cannot be read."""
    receipts = [(preference, parse_receipt(preference)) for preference in preferences]
    ours = [(p, r) for p, r in receipts if r.provenance.constitution_sha256 == old.digest]
    judges = Counter(JudgedBy.of(receipt) for _, receipt in ours)
    judge = max(judges, key=judges.__getitem__, default=None)
    usable = [(p, r) for p, r in ours if JudgedBy.of(r) == judge]
    left_out = {OTHER_LAW: len(receipts) - len(ours), OTHER_JUDGE: len(ours) - len(usable)}
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
    asked = set(receipt.provenance.principle_ids)
    not_drawn = {p.id for p in old.principles if p.applies_to(preference.prompt)} - asked
    answered = (asked - set(changed)) | not_drawn
    return Label(
        pair=comparison(preference, receipt),
        votes=receipt.votes,
        lacking=unanswered_principles(new, preference.prompt, answered),
    )


def questions(planned: Plan) -> list[tuple[Constitution, list[Comparison]]]:
    """What to ask: pairs grouped by the principles they lack, each group's as a constitution."""
    groups: dict[tuple[str, ...], tuple[Constitution, list[Comparison]]] = {}
    for label in planned.labels:
        if label.lacking:
            names = tuple(principle.id for principle in label.lacking)
            group = groups.setdefault(names, (restrict_to(planned.new, label.lacking), []))
            group[1].append(label.pair)
    return list(groups.values())


# ── what moves ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Move:
    """One label under both constitutions; probabilities are of response A of `pair`."""

    pair: Comparison
    old: Rejudged
    new: Rejudged
    parts: dict[str, float]  # principle id → its part in Δp; they add up to it

    @property
    def delta(self) -> float:
        return self.new.prob_a - self.old.prob_a

    @property
    def flips(self) -> bool:
        return (self.old.prob_a >= 0.5) != (self.new.prob_a >= 0.5)

    @property
    def sureness(self) -> float:
        """How far the less sure of the two labels is from one half, in [0, 0.5]."""
        return min(abs(self.old.prob_a - 0.5), abs(self.new.prob_a - 0.5))

    @property
    def moved_by(self) -> str:
        """The principle with the largest part in the direction of the move."""
        return max(self.parts, key=lambda name: self.parts[name] * (1 if self.delta > 0 else -1))


@dataclass(frozen=True, slots=True)
class TraitDifference:
    trait: str
    labels: int  # that have the trait under both constitutions
    flips: int
    mean_move: float  # mean |Δp| of the trait's own probability


@dataclass(frozen=True, slots=True)
class Difference:
    """All moves, and what they add up to."""

    moves: tuple[Move, ...]
    unlabeled: dict[str, int]  # why a label exists under one constitution only → labels

    @property
    def flips(self) -> tuple[Move, ...]:
        """The most confident first."""
        found = [move for move in self.moves if move.flips]
        return tuple(sorted(found, key=lambda move: -move.sureness))

    @property
    def flip_share(self) -> Estimate | None:
        """With Wilson's 95 % interval over prompts; None without labels."""
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
        names = sorted({trait for move in self.moves for trait in move.old.trait_probs})
        return tuple(found for name in names if (found := self._trait(name)))

    def _trait(self, name: str) -> TraitDifference | None:
        both = [
            (move.old.trait_probs[name], move.new.trait_probs[name])
            for move in self.moves
            if name in move.old.trait_probs and name in move.new.trait_probs
        ]
        if not both:
            return None
        flips = sum((was >= 0.5) != (now >= 0.5) for was, now in both)
        return TraitDifference(name, len(both), flips, fmean(abs(now - was) for was, now in both))


def summary(found: Difference, show: int) -> dict[str, Any]:
    """The difference as JSON has it, with the `show` most confident flips."""
    share, sizes = found.flip_share, found.move_quantiles
    return {
        "compared": len(found.moves),
        "unlabeled": found.unlabeled,
        "flips": len(found.flips),
        "flip_share": share and asdict(share),
        "move": sizes and dict(zip(("median", "nine_in_ten", "largest"), sizes, strict=True)),
        "traits": [asdict(trait) for trait in found.traits],
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
            for move in found.flips[:show]
        ],
    }


def compare_labels(planned: Plan, fresh: Mapping[str, Judgment | Unjudged]) -> Difference:
    """Every label under both constitutions. `fresh` answers `questions`, by the pairs' ids."""
    moves, unlabeled = [], Counter[str]()
    for label in planned.labels:
        answer = fresh.get(label.pair.id)
        if label.lacking and not isinstance(answer, Judgment):
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
    was, now = _pulls(before.votes, old), _pulls(after.votes, new)
    parts = {name: now.get(name, 0.0) - was.get(name, 0.0) for name in {**was, **now}}
    return Move(label.pair, before, after, parts)


def _pulls(votes: Sequence[PrincipleVote], law: Constitution) -> dict[str, float]:
    """Principle id → ŵ_k (p_k - ½)."""
    weights = [vote.weight * law.trait_weights[vote.trait] for vote in votes]
    total = sum(weights)
    return {
        vote.principle_id: weight / total * (vote.prob_a - 0.5)
        for vote, weight in zip(votes, weights, strict=True)
    }


# ── asking ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fresh:
    """The answers to `questions` by the pairs' ids, and what this call took of the judge."""

    answers: Mapping[str, Judgment | Unjudged] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


def read_missing(planned: Plan, client: LabelingClient, journal_file: Path) -> Fresh:
    """Ask what the labels lack; killed and called again, only what the journal has not.

    Raises DifferenceError when the judge is not the labels' own, and as `labeling.ask`.
    """
    if planned.judge is None:
        return Fresh()
    planned.judge.must_be(client.server_info())
    answers: dict[str, Judgment | Unjudged] = {}
    usage = Usage()
    for law, pairs in questions(planned):
        asked = ask(pairs, client, journal_file, constitution=law, options=planned.judge.options)
        answers.update((pair.id, answer) for pair, answer in asked.found())
        usage += asked.usage
    return Fresh(answers, usage)
