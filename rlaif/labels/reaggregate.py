"""A label under an edited constitution, from the votes it has and the few it lacks. Pure.

    changed   principles of the new constitution that the judge would be asked in other words
    known     votes of a label's receipt, those of changed principles aside
    missing   principles that are wanted now and were not asked: only these cost reads
    label     = aggregation(known and fresh, weights and scopes of the new constitution)

A vote depends on the principle's `compare` text and the pair, and on nothing else of the
constitution. So an edit of weights, traits, scopes, examples, or of the critique and revision texts
costs no read, unless a wider scope reaches a pair that was not asked.

The caller sees to it that known and fresh votes come from one model, template and way of reading.
Left out: calibration, which belongs to one constitution and does not outlive its edit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from constitution.schema import Constitution, Principle
from judge_service.judge import aggregation
from judge_service.types import Conversation, PrincipleVote, Verdict


@dataclass(frozen=True, slots=True)
class Rejudged:
    """What the votes add up to under the new constitution; the fields are those of `Judgment`."""

    prob_a: float
    trait_probs: dict[str, float]
    votes: tuple[PrincipleVote, ...]  # in the constitution's order
    verdict: Verdict
    order_gap: float | None
    position_consistent: bool | None
    spread: float


def changed_principles(old: Constitution, new: Constitution) -> tuple[str, ...]:
    """Ids in `new`, in its order, whose votes cannot be taken over: new, or asked in other words.

    Texts are compared as the prompt holds them: without white space at the ends.
    """
    asked = {principle.id: principle.compare.strip() for principle in old.principles}
    return tuple(p.id for p in new.principles if asked.get(p.id) != p.compare.strip())


def keep_unchanged(
    votes: Iterable[PrincipleVote], changed: Collection[str]
) -> tuple[PrincipleVote, ...]:
    """The votes that an edit leaves valid; `changed` is that of `changed_principles`."""
    return tuple(vote for vote in votes if vote.principle_id not in changed)


def unanswered_principles(
    new: Constitution, conversation: Conversation, answered: Collection[str]
) -> tuple[Principle, ...]:
    """Principles of `new` that apply to the conversation and are not in `answered`.

    `answered` holds the unchanged ids that were asked: those of a receipt's `principle_ids`, less
    the changed. A principle that was asked and gave no vote (its reads were void) is among them:
    asking again gives the same.
    """
    return tuple(p for p in new.principles if p.id not in answered and p.applies_to(conversation))


def restrict_to(law: Constitution, principles: Sequence[Principle]) -> Constitution:
    """The constitution cut down to some of its principles and their traits, to ask for these alone.

    Its name and version stay; its digest is its own.
    """
    traits = {principle.trait for principle in principles}
    return Constitution(
        name=law.name,
        version=law.version,
        traits={name: trait for name, trait in law.traits.items() if name in traits},
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
    """The label by `new`; None when no vote is left.

    Votes of principles that are gone, or whose scope excludes the conversation, are dropped; the
    others take their weight and trait from `new`. A fresh vote counts before a known one.
    `known` must hold no vote of a changed principle (`keep_unchanged`).
    """
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
