"""A question with known right answers: a prompt and two or more responses, some of them right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from constitution.schema import Message
from rlaif.data.formats.base import content_id


@dataclass(frozen=True, slots=True)
class GoldQuestion:
    """A prompt, its responses, and which of them are right.

    prompt_id: equal for questions with the same messages; intervals are clustered by it. responses:
    at least two. right: indices into responses, at least one and not all. group: the benchmark's
    subset, domain or category; "" if it has none. source: name of the schema (`GOLD_FORMATS`). id:
    the benchmark's own, unique only within a file; "" if it has none.

    >>> question = GoldQuestion.pair("Name a fruit", "An apple.", "A stone.", group="facts")
    >>> question.responses, question.right
    (('An apple.', 'A stone.'), frozenset({0}))
    """

    prompt_id: str
    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    right: frozenset[int]
    group: str
    source: str
    id: str = ""

    @property
    def wrong(self) -> tuple[int, ...]:
        """Indices of the responses that are not right."""
        return tuple(i for i in range(len(self.responses)) if i not in self.right)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every (right, wrong) pair of indices, in order."""
        return tuple((r, w) for r in sorted(self.right) for w in self.wrong)

    @classmethod
    def pair(
        cls, prompt: str | Sequence[Message], chosen: str, rejected: str, *, group: str = "",
        source: str = "pairs", id: str = "",
    ) -> GoldQuestion:  # fmt: skip
        """A question of two responses, the first of which is right."""
        messages = as_messages(prompt)
        return cls(
            prompt_id(messages), messages, (chosen, rejected), frozenset({0}), group, source, id
        )


def as_messages(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    """A prompt as messages; a text is the user's only turn."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(prompt)


def prompt_id(messages: Sequence[Message]) -> str:
    """An id made from the messages: 16 hexadecimal digits."""
    return content_id([[message.role, message.content] for message in messages])
