"""Files of preferences and of responses to imitate, read as records.

Ours, or in one of the formats of formats/, which the first row tells. Rows that say nothing are
left out and counted; the counts, and the columns that were not used, are printed in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rlaif.data.formats import FORMATS, recognized
from rlaif.data.formats.base import Fields, Format, LeftOut
from rlaif.data.notes import ReadingNotes
from rlaif.data.records import Lesson, Preference, RecordError
from rlaif.data.rows import Row, iter_rows, shown_name


def read_preferences(path: Path) -> list[Preference]:
    """All preferences of a file, in memory; raises as `iter_preferences`."""
    return list(iter_preferences(path))


def iter_preferences(path: Path) -> Iterator[Preference]:
    """Yield the preferences of a file: labels of ours, or of one of FORMATS.

    Raises RecordError naming the file, the row and the field; and for a file with rows of which
    none can be used.
    """
    first, rows = _begin(path)
    if first is None:
        return
    name = recognized(first[1])
    if name in ("", "trl") and not {"chosen", "rejected"} & first[1].keys():
        raise RecordError(_no_preferences(path, first[1]))
    notes = ReadingNotes(path, name or "trl", FORMATS[name or "trl"].columns)
    for record in convert_rows(FORMATS[name or "trl"], rows, notes):
        if not isinstance(record, Preference):
            raise RecordError(
                f"{path}: not a file of preferences but of responses to imitate ({name}); rlaif "
                "train sft reads it"
            )
        yield record
    if not notes.records:
        raise RecordError(f"{path}: no preferences in it that can be used; {_left_out(notes)}")
    notes.print()


def read_lessons(path: Path) -> list[Lesson]:
    """The records to imitate in a file, in order: of ours, or of one of FORMATS.

    Raises RecordError naming the file, the row and the field; and for a file without records.
    """
    first, rows = _begin(path)
    if first is None:
        raise RecordError(f"{path}: nothing in it to imitate; it has no rows")
    name = recognized(first[1]) or "trl"
    notes = ReadingNotes(path, name, FORMATS[name].columns)
    found = list(convert_rows(FORMATS[name], rows, notes, lessons=True))
    if not found:
        raise RecordError(f"{path}: nothing in it to imitate; {_left_out(notes)}")
    notes.print()
    return found


def convert_rows(
    format: Format, rows: Iterator[Row], notes: ReadingNotes, *, lessons: bool = False
) -> Iterator[Lesson]:
    """Yield the records of rows in this format, one by one; `notes` counts the others.

    lessons: the format's records to imitate. Raises RecordError for an invalid row.
    """
    convert = format.lessons if lessons and format.lessons else format.convert
    for record in convert(notes.watch(rows)):
        if isinstance(record, LeftOut):
            notes.left_out[record.reason] += 1
        else:
            notes.records += 1
            yield record


def _begin(path: Path) -> tuple[Row | None, Iterator[Row]]:
    """The first row of a file, None if there is none, and all its rows."""
    rows = iter_rows(path)
    first = next(rows, None)
    return first, rows if first is None else chain([first], rows)


def _no_preferences(path: Path, fields: Fields) -> str:
    present = shown_name(", ".join(fields), 200) or "none"
    remedy = "rlaif label writes one"
    if {"prompt", "completion"} <= fields.keys():
        remedy = "single responses have nothing to be compared with; rlaif train sft reads them"
    return (
        f"{path}: not a file of preferences: no column chosen, rejected "
        f"(it has {present}); {remedy}"
    )


def _left_out(notes: ReadingNotes) -> str:
    if not notes.left_out:
        return "give a file with more rows"
    reasons = ", ".join(f"{count} {reason}" for reason, count in notes.left_out.most_common())
    return f"left out {notes.left_out.total()}: {reasons}"
