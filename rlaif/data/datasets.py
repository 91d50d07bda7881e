"""Files of preferences and of responses to imitate, read as records.

Ours, or made for other trainers: trl_format.py lists the shapes of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlaif.data.records import Lesson, Preference, RecordError, iter_rows
from rlaif.data.trl_format import lessons, preference


def read_preferences(path: Path) -> list[Preference]:
    """All preferences of a Parquet or JSONL file, in memory; raises as `iter_preferences`."""
    return list(iter_preferences(path))


def iter_preferences(path: Path) -> Iterator[Preference]:
    """Yield the preferences of a Parquet or JSONL file: labels of ours, or made for TRL.

    Raises RecordError naming the file, the row and the field.
    """
    for where, fields in iter_rows(path, ("chosen", "rejected")):
        yield preference(fields, where)


def read_lessons(path: Path) -> list[Lesson]:
    """The records to imitate in a JSONL or Parquet file, in order; shapes as in trl_format.py.

    Raises RecordError naming the file, the row and the field; and for a file without records.
    """
    found = [lesson for where, fields in iter_rows(path) for lesson in lessons(fields, where)]
    if not found:
        raise RecordError(f"{path}: nothing in it to imitate")
    return found
