"""Labels under an edited constitution, from known votes and few fresh ones; pure functions.

    changed   principles of the new constitution that are new or have another `compare` text
    known     votes in a label's receipt, except those of changed principles
    missing   principles that apply now and were not read: only these cost reads
    label     = aggregation(known and fresh votes, weights and scopes of the new constitution)

A vote depends only on the principle's `compare` text and the pair. So an edit of weights, traits,
scopes, examples, or of the critique and revision texts costs no reads, unless a wider scope covers
a pair that it did not cover before.

The caller must ensure that known and fresh votes have the same model, template and protocol. Left
out: calibration, which is specific to one constitution and not valid after an edit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from constitution.schema import Constitution, Principle
from judge_service.judge import aggregation
from judge_service.types import Conversation, PrincipleVote, Verdict


@dataclass(frozen=True, slots=True)
class Rejudged:
    """The votes aggregated under the new constitution; the fields are those of `Judgment`."""

    prob_a: float
    trait_probs: dict[str, float]
    votes: tuple[PrincipleVote, ...]  # in the constitution's order
    verdict: Verdict
    order_gap: float | None
    position_consistent: bool | None
    spread: float


def changed_principles(old: Constitution, new: Constitution) -> tuple[str, ...]:
    """Ids in `new`, in its order, whose votes cannot be reused: new or reworded principles.

    Texts are compared as the prompt contains them: without white space at the ends.
    """
    old_texts = {principle.id: principle.compare.strip() for principle in old.principles}
    return tuple(p.id for p in new.principles if old_texts.get(p.id) != p.compare.strip())


def keep_unchanged(
    votes: Iterable[PrincipleVote], changed: Collection[str]
) -> tuple[PrincipleVote, ...]:
    """The votes that stay valid after an edit; `changed` comes from `changed_principles`."""
    return tuple(vote for vote in votes if vote.principle_id not in changed)


def unanswered_principles(
    new: Constitution, conversation: Conversation, answered: Collection[str]
) -> tuple[Principle, ...]:
    """Principles of `new` that apply to the conversation and are not in `answered`.

    `answered` holds the ids already read: a receipt's `principle_ids` without the changed ones. It
    includes principles without a vote (their reads were void), because reading again gives the
    same.
    """
    return tuple(p for p in new.principles if p.id not in answered and p.applies_to(conversation))


def restrict_to(constitution: Constitution, principles: Sequence[Principle]) -> Constitution:
    """The constitution reduced to some of its principles and their traits, to judge by these alone.

    It keeps its name and version, and has a digest of its own.
    """
    traits = {principle.trait for principle in principles}
    return Constitution(
        name=constitution.name,
        version=constitution.version,
        traits={name: trait for name, trait in constitution.traits.items() if name in traits},
        principles=tuple(principles),
    )


def rejudge(
    known: Sequence[PrincipleVote],
    fresh: Sequence[PrincipleVote],
    new: Constitution,
    conversation: Conversation,
    *,
    tie_margin: float = 0.0,
) -> Rejudged | None:
    """The label under `new`; None if no vote is left.

    Votes of removed principles, or of those whose scope excludes the conversation, are dropped; the
    others take their weight and trait from `new`. A fresh vote replaces a known one. `known` must
    not contain votes of changed principles (`keep_unchanged`).
    """
    # Votes in the order of the constitution, as in a full judgment.
    by_id = {vote.principle_id: vote for vote in (*known, *fresh)}
    applying = [p.id for p in new.principles if p.applies_to(conversation) and p.id in by_id]
    votes = aggregation.reweigh([by_id[id] for id in applying], new)
    if not votes:
        return None
    prob_a = aggregation.weighted_prob(votes, new.trait_weights)
    consistent, gap = aggregation.compare_orders(votes, new.trait_weights)
    return Rejudged(
        prob_a=prob_a,
        trait_probs=aggregation.trait_probs(votes),
        votes=votes,
        verdict=aggregation.verdict(prob_a, tie_margin),
        order_gap=gap,
        position_consistent=consistent,
        spread=aggregation.spread(votes, new.trait_weights),
    )
