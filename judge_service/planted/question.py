"""What a judge's prompt asks, parsed from the text of its user turn: nothing else is known here.

    [User 5f2c9a]
    Name a fruit.

    [Reply A 5f2c9a]
    A pear.

    [Reply B 5f2c9a]
    A plum.

    [Question 5f2c9a]
    Prefer the shorter reply. Which reply is that, A or B?

The turn begins with a heading, and its nonce occurs nowhere in the content (judge/template.py): a
response that holds headings of its own, with any other nonce, is only text. The principle comes
last, so that it may hold whatever it likes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from constitution.schema import Message
from judge_service.judge.prompts import CRITIQUE, PROTOCOL_PROMPTS, RATING, REVISION
from judge_service.judge.template import PromptSpec
from judge_service.types import Conversation

_FIRST = re.compile(r"\[(?:System|User|Assistant) ([0-9a-f]+)\]\n")
_ROLES = {"System": "system", "User": "user", "Assistant": "assistant"}
_PRINCIPLE = "{{principle}}"
_READ = (PROTOCOL_PROMPTS["pairwise"].direct, PROTOCOL_PROMPTS["pointwise"].direct, RATING)
_WRITTEN = (CRITIQUE, REVISION)


class UnknownQuestion(ValueError):  # noqa: N818  a prompt, not a failure of ours
    """The text is not a judge's prompt that a label answers."""


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """One question: who said what, the replies as shown, the principle, and the prompt's form.

    Of a revision, `replies` holds the reply and its critique.
    """

    conversation: Conversation
    replies: tuple[str, ...]
    principle: str
    spec: PromptSpec


def parse_question(turn: str) -> JudgeQuestion:
    """The question of the judge's user turn that a label answers. Raises UnknownQuestion."""
    return _parse(turn, _READ, "the prompt asks for text, or for something other than a label")


def parse_writing(turn: str) -> JudgeQuestion:
    """The question of the judge's user turn that asks for a critique or a revision. Raises
    UnknownQuestion."""
    return _parse(turn, _WRITTEN, "the prompt asks for neither a critique nor a revision")


def _parse(turn: str, specs: Sequence[PromptSpec], otherwise: str) -> JudgeQuestion:
    first = _FIRST.match(turn)
    if first is None:
        raise UnknownQuestion("the prompt does not begin with a heading of the conversation")
    data, principle = _split_at_question(turn, first[1])
    replies, conversation = [], []
    for name, text in _parts(data, first[1]):
        if name in _ROLES:
            conversation.append(Message.model_validate({"role": _ROLES[name], "content": text}))
        else:
            replies.append((name, text))
    names = tuple(name for name, _ in replies)
    for spec in specs:
        ending = spec.question.removeprefix(_PRINCIPLE)
        if spec.replies == names and principle.endswith(ending):
            shown = tuple(text for _, text in replies)
            return JudgeQuestion(tuple(conversation), shown, principle.removesuffix(ending), spec)
    raise UnknownQuestion(otherwise)


def _split_at_question(turn: str, nonce: str) -> tuple[str, str]:
    """(the data, what follows the first heading of the question)."""
    data, found, rest = turn.partition(f"\n\n[Question {nonce}]\n")
    if not found:
        raise UnknownQuestion("the prompt has no heading of a question")
    return data, rest


def _parts(data: str, nonce: str) -> list[tuple[str, str]]:
    """(heading, text) of each part of the data."""
    pieces = re.split(rf"(?:^|\n\n)\[([A-Z][A-Za-z ]*) {nonce}\]\n", data)
    return list(zip(pieces[1::2], pieces[2::2], strict=True))
