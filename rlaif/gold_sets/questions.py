"""Files of questions with known right answers.

Rows of JSONL, a JSON array or Parquet (rlaif/data/rows.py) in one of the schemas of formats.py,
which is recognized by the columns of the first row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from constitution.errors import expected_one_of
from rlaif.data.formats.base import LeftOut, content_id
from rlaif.data.records import RecordError
from rlaif.data.rows import iter_rows
from rlaif.gold_sets.formats import GOLD_FORMATS, recognized
from rlaif.gold_sets.record import GoldQuestion as GoldQuestion
from rlaif.gold_sets.record import as_messages as as_messages


@dataclass(frozen=True, slots=True)
class GoldSet:
    """The questions of a file, the name of its schema, and how many rows were left out, and why."""

    path: Path
    format: str
    questions: tuple[GoldQuestion, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def read_gold(path: Path, format: str | None = None) -> list[GoldQuestion]:
    """The questions of a file; raises as `load_gold_set`."""
    return list(load_gold_set(path, format).questions)


def load_gold_set(path: Path, format: str | None = None) -> GoldSet:
    """Read a file of questions. format: a name of `GOLD_FORMATS`; None: recognized by its columns.

    Raises RecordError for an unknown format, a row that is not in it (naming line and field), and a
    file without a usable question.
    """
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
