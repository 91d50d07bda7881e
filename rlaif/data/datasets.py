"""Files of preferences and of responses to imitate, or rows in memory, read as records.

Ours, or in one of the formats of formats/, which the first row tells. Rows that say nothing are
left out and counted; the counts, and the columns that were not used, are printed in one line. A
file named .txt is one text without turns, unless it begins with "{", as rows do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from rlaif.data.formats import FORMATS, recognized
from rlaif.data.formats.base import Fields, Format, LeftOut
from rlaif.data.notes import ReadingNotes
from rlaif.data.records import Lesson, PlainText, Preference, RecordError
from rlaif.data.rows import Row, checked, iter_rows, read_text, shown_name
from rlaif.data.shards.folder import is_shard_folder


def labels_at(path: Path) -> Path:
    """What a path to labels names: a file, a folder of shards, or the file of `rlaif label` in a
    folder."""
    return path / "preferences.parquet" if path.is_dir() and not is_shard_folder(path) else path


def read_preferences(path: Path) -> list[Preference]:
    """All preferences of a file, in memory; raises as `iter_preferences`."""
    return list(iter_preferences(path))


def iter_preferences(path: Path) -> Iterator[Preference]:
    """Yield the preferences of a file: labels of ours, or of one of FORMATS.

    Raises RecordError naming the file, the row and the field; and for a file with rows of which
    none can be used.
    """
    yield from _preferences(iter_rows(path), str(path))


def read_lessons(path: Path) -> list[Lesson]:
    """The records to imitate in a file, in order: of ours, or of one of FORMATS.

    Raises RecordError naming the file, the row and the field; and for a file without records.
    """
    if path.suffix.lower() == ".txt" and (text := read_text(path)).lstrip()[:1] != "{":
        if not text.strip():
            raise RecordError(f"{path}: nothing in it to imitate; it holds no text")
        return [PlainText(id=path.stem, text=text)]
    return _lessons(iter_rows(path), str(path))


def parse_preferences(
    rows: Iterable[tuple[str, Preference | Mapping[str, Any]]], source: str
) -> Iterator[Preference]:
    """Yield the preferences of rows in memory, each with its place; raises as `iter_preferences`.

    A row is a preference, or the fields of a line of a file. source: their name in messages.
    """
    for ours, group in groupby(rows, key=lambda row: isinstance(row[1], Preference)):
        if ours:
            yield from (record for _, record in group if isinstance(record, Preference))
        else:
            yield from _preferences(checked(_fields_of(group)), source)


def parse_lessons(
    rows: Iterable[tuple[str, Lesson | Mapping[str, Any]]], source: str
) -> Iterator[Lesson]:
    """Yield the records to imitate of rows in memory; as `parse_preferences`."""
    for ours, group in groupby(rows, key=lambda row: isinstance(row[1], Lesson)):
        if ours:
            yield from (record for _, record in group if isinstance(record, Lesson))
        else:
            yield from _lessons(checked(_fields_of(group)), source)


def _fields_of(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((where, fields) for where, fields in rows if isinstance(fields, Mapping))


def _preferences(rows: Iterator[Row], source: str) -> Iterator[Preference]:
    first = next(rows, None)
    if first is None:
        return
    name = recognized(first[1])
    if name in ("", "trl") and not {"chosen", "rejected"} & first[1].keys():
        raise RecordError(_no_preferences(source, first[1]))
    notes = ReadingNotes(source, name or "trl", FORMATS[name or "trl"].columns)
    for record in convert_rows(FORMATS[name or "trl"], chain([first], rows), notes):
        if not isinstance(record, Preference):
            raise RecordError(
                f"{source}: not a file of preferences but of responses to imitate ({name}); rlaif "
                "train sft reads it"
            )
        yield record
    if not notes.records:
        raise RecordError(f"{source}: no preferences in it that can be used; {_left_out(notes)}")
    notes.print()


def _lessons(rows: Iterator[Row], source: str) -> list[Lesson]:
    first = next(rows, None)
    if first is None:
        raise RecordError(f"{source}: nothing in it to imitate; it has no rows")
    name = recognized(first[1]) or "trl"
    notes = ReadingNotes(source, name, FORMATS[name].columns)
    found = list(convert_rows(FORMATS[name], chain([first], rows), notes, lessons=True))
    if not found:
        raise RecordError(f"{source}: nothing in it to imitate; {_left_out(notes)}")
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


def _no_preferences(source: str, fields: Fields) -> str:
    present = shown_name(", ".join(fields), 200) or "none"
    remedy = "rlaif label writes one"
    if {"prompt", "completion"} <= fields.keys():
        remedy = "single responses have nothing to be compared with; rlaif train sft reads them"
    return (
        f"{source}: not a file of preferences: no column chosen, rejected "
        f"(it has {present}); {remedy}"
    )


def _left_out(notes: ReadingNotes) -> str:
    if not notes.left_out:
        return "give a file with more rows"
    reasons = ", ".join(f"{count} {reason}" for reason, count in notes.left_out.most_common())
    return f"left out {notes.left_out.total()}: {reasons}"
