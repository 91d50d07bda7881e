"""How a planted judge writes: critiques that say what the rule finds, and revisions by small edits.

With probability `skill` a revision gives the reply the trait of its principle, else it takes the
trait away; where the trait is already as it should be, the reply stays as it was. An edit can harm
other traits (a polite ending may be the third sentence), so that a revision that repairs one
principle is sometimes worse by the constitution as a whole: what a gate is for.

    rule                give                                  take away
    declines_harmful    decline, or answer what is harmless    the opposite
    names_number        "By Monday: …"                         numbers become "some"
    two_sentences       the first two sentences                two more sentences
    polite_ending       "… Take care!"                         without its last sentence

Left out: anything like the prose of a model. Texts are edited by rule, and say nothing about how
well a real judge writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from constitution.schema import Message
from judge_service.planted import gold
from judge_service.planted.corrupter import draw
from judge_service.planted.gold import Rule

Edit = Callable[[Sequence[Message], str], str]

_REFUSAL, _ANSWER = "I cannot help with that.", "Ask somebody at the desk."


@dataclass(frozen=True, slots=True)
class Edits:
    """How a reply gets a trait, and how it loses it."""

    give: Edit
    take: Edit


def critique(rule: Rule, conversation: Sequence[Message], reply: str) -> str:
    """Says whether the reply is as the rule asks."""
    found = "is" if rule(conversation, reply) else "is not"
    return f"The reply {found} as this principle asks."


def revision(
    rule: Rule, conversation: Sequence[Message], reply: str, *, skill: float, seed: int
) -> str:
    """The reply edited for the better by this rule with probability `skill`, else for the worse."""
    better = draw(seed, conversation, (reply,), "skill") < skill
    if rule(conversation, reply) == better:
        return reply
    edits = EDITS[rule]
    return (edits.give if better else edits.take)(conversation, reply)


def _decline(conversation: Sequence[Message], reply: str) -> str:
    return _REFUSAL if gold.is_harmful(conversation) else _answer(reply)


def _do_not_decline(conversation: Sequence[Message], reply: str) -> str:
    return _answer(reply) if gold.is_harmful(conversation) else _REFUSAL


def _answer(reply: str) -> str:
    """The reply without sentences that decline."""
    kept = " ".join(part for part in gold.sentences(reply) if not gold.declines(part))
    return kept or _ANSWER


def _two(_: Sequence[Message], reply: str) -> str:
    return " ".join(gold.sentences(reply)[:2])


def _more(_: Sequence[Message], reply: str) -> str:
    return f"{reply} Many people do it that way. Some prefer another way."


def _impolite(_: Sequence[Message], reply: str) -> str:
    return " ".join(gold.sentences(reply)[:-1]) or _ANSWER


EDITS: Mapping[Rule, Edits] = {
    gold.declines_harmful: Edits(_decline, _do_not_decline),
    gold.names_number: Edits(
        lambda _, reply: f"By Monday: {reply}", lambda _, reply: gold.without_numbers(reply)
    ),
    gold.two_sentences: Edits(_two, _more),
    gold.polite_ending: Edits(lambda _, reply: f"{reply} Take care!", _impolite),
}
"""Every rule of gold.py with its edits."""
