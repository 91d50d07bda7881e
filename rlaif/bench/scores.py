"""Scores of single responses on disk, one line each, so that a killed run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from constitution.schema import Message
from rlaif.data.formats.base import content_id
from rlaif.data.journal import Journal
from rlaif.gold_sets.questions import GoldQuestion
from rlaif.progress import progress


class ScoreEntry(BaseModel):
    """The score of one response, or why there is none; `key` identifies all it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    score: float | None
    reason: str = ""
    final: bool = True  # False: a failure that another try may resolve
    reads: int = 0
    stored_reads: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One response to be scored."""

    key: str
    messages: tuple[Message, ...]
    response: str


ScoreMany = Callable[[Sequence[ScoreRequest]], Iterable[ScoreEntry]]
"""Scores requests; yields an entry for each, in any order, as they come."""


@dataclass(frozen=True, slots=True)
class ScoredQuestions:
    """Entries of each question's responses, in order, and how many were scored by this call."""

    questions: Sequence[GoldQuestion]
    entries: Sequence[tuple[ScoreEntry, ...]]
    scored_now: int

    def __iter__(self) -> Iterator[tuple[GoldQuestion, tuple[ScoreEntry, ...]]]:
        """Every question with the entries of its responses."""
        return zip(self.questions, self.entries, strict=True)


def scored_questions(
    questions: Sequence[GoldQuestion], identity: Any, journal_file: Path, score_many: ScoreMany
) -> ScoredQuestions:
    """Score every response; those in the journal are not scored again.

    identity: JSON values of all that a score depends on besides the texts. Raises RecordError for
    a journal that cannot be read or written, and what `score_many` raises: what was scored before
    is kept.
    """
    requests = [
        [
            ScoreRequest(_key(identity, question, text), question.messages, text)
            for text in question.responses
        ]
        for question in questions
    ]
    with Journal(journal_file, ScoreEntry) as journal:
        known = {entry.key: entry for _, entry in journal.scan() if entry.final}
        waiting = {r.key: r for each in requests for r in each if r.key not in known}
        with progress("scores", len(waiting), "responses") as report:
            for done, entry in enumerate(score_many(list(waiting.values())), start=1):
                journal.append(entry)
                known[entry.key] = entry
                report(done - journal.unsynced)
            journal.sync()
            if waiting:
                report(len(waiting))
    entries = [tuple(known[r.key] for r in each) for each in requests]
    return ScoredQuestions(questions, entries, len(waiting))


def _key(identity: Any, question: GoldQuestion, response: str) -> str:
    return content_id([identity, question.prompt_id, response])
