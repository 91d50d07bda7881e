"""Questions with known right answers, and the reader of their files.

A question is a prompt with two or more responses, some of which are right. Files are rows (JSONL, a
JSON array, Parquet: rlaif/data/rows.py) in one of the schemas of formats.py, recognized by the
columns of their first row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from constitution.errors import expected_one_of
from constitution.schema import Message
from rlaif.data.formats.base import LeftOut, content_id
from rlaif.data.records import RecordError
from rlaif.data.rows import iter_rows


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


@dataclass(frozen=True, slots=True)
class GoldSet:
    """The questions of a file, the name of its schema, and how many rows were left out, and why."""

    path: Path
    format: str
    questions: tuple[GoldQuestion, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def as_messages(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    """A prompt as messages; a text is the user's only turn."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(prompt)


def prompt_id(messages: Sequence[Message]) -> str:
    """An id made from the messages: 16 hexadecimal digits."""
    return content_id([[message.role, message.content] for message in messages])


def read_gold(path: Path, format: str | None = None) -> list[GoldQuestion]:
    """The questions of a file; raises as `load_gold_set`."""
    return list(load_gold_set(path, format).questions)


def load_gold_set(path: Path, format: str | None = None) -> GoldSet:
    """Read a file of questions. format: a name of `GOLD_FORMATS`; None: recognized by its columns.

    Raises RecordError for an unknown format, a row that is not in it (naming line and field), and a
    file without a usable question.
    """
    from rlaif.gold_sets.formats import GOLD_FORMATS, recognized

    if format is not None and format not in GOLD_FORMATS:
        raise RecordError(f"unknown format: {format!r}; {expected_one_of(format, GOLD_FORMATS)}")
    rows = iter_rows(path)
    first = next(rows, None)
    if first is None:
        raise RecordError(f"{path}: contains no rows; give a file of gold questions")
    name = format or recognized(first[1])
    if not name:
        columns = ", ".join(first[1])
        raise RecordError(
            f"{path}: unknown columns: {columns}; rows need prompt, chosen and rejected, or the "
            f"columns of one of {', '.join(GOLD_FORMATS)} (docs/bench.md)"
        )
    questions, left_out = [], Counter[str]()
    for each in GOLD_FORMATS[name].read(chain([first], rows), path):
        if isinstance(each, LeftOut):
            left_out[each.reason] += 1
        else:
            questions.append(each)
    if not questions:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise RecordError(f"{path}: contains no usable question ({reasons}); see docs/bench.md")
    return GoldSet(path, name, tuple(questions), left_out)


def draw(questions: Sequence[GoldQuestion], limit: int | None, seed: int = 0) -> list[GoldQuestion]:
    """A seeded sample of the questions, in their order; all without a limit.

    A larger sample includes a smaller one with the same seed.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    keys = [content_id([seed, q.prompt_id, q.id, *q.responses]) for q in questions]
    drawn = sorted(range(len(questions)), key=lambda n: (keys[n], n))[:limit]
    return [questions[n] for n in sorted(drawn)]
