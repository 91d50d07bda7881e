"""Conversion of a public data set into a file of records, row by row.

    result = convert(Path("nectar.parquet"), Path("pairs.jsonl"))
    print(result.notes.line())

Preferences are written as TRL's columns with prob_chosen, demonstrations as prompt and response;
both are read by the trainers. Memory stays flat: no more than a thousand rows are held together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from constitution.errors import nearest
from rlaif.data.datasets import convert_rows
from rlaif.data.formats import FORMATS, recognized
from rlaif.data.notes import ReadingNotes
from rlaif.data.records import (
    Lesson,
    PlainText,
    Preference,
    RecordError,
    Sample,
    write_jsonl,
    write_preferences,
)
from rlaif.data.rows import iter_rows, shown_name

AUTO = "auto"
Kind = Literal["preferences", "lessons"]

_ENDINGS = (".jsonl", ".parquet")
_ROWS_AT_ONCE = 1000
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted, or would be: the format, the counts, and the first three records."""

    format: str
    notes: ReadingNotes
    first: tuple[Lesson, ...]


def convert(
    source: Path,
    out: Path,
    *,
    format: str = AUTO,
    kind: Kind = "preferences",
    dry_run: bool = False,
) -> Conversion:
    """Convert a data set to `out`, Parquet or JSONL by its ending; atomically.

    format: a name in FORMATS, or "auto" to recognize it by the columns of the first row. kind:
    "preferences", or "lessons", the records to imitate; a format without pairs gives lessons for
    either. dry_run: read everything and write nothing. Raises RecordError for an unknown format,
    an invalid row, a source without records, and an `out` that cannot be written.
    """
    _check_out(source, out)
    rows = iter_rows(source)
    first = next(rows, None)
    if first is None:
        raise RecordError(f"{source}: no rows in it")
    name = recognized(first[1]) if format == AUTO else format
    if name not in FORMATS:
        raise RecordError(_unknown_format(source, format, first[1]))

    # The first records are kept aside for the report while all of them stream into the file.
    notes = ReadingNotes(str(source), name, FORMATS[name].columns)
    shown: list[Lesson] = []
    records = convert_rows(FORMATS[name], chain([first], rows), notes, lessons=kind == "lessons")
    records = _watched(records, shown)
    head = next(records, None)
    if head is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in notes.left_out.items())
        raise RecordError(f"{source}: no records in it ({name}); left out: {reasons or 'nothing'}")
    records = _of_one_kind(chain([head], records), type(head), source)
    if dry_run:
        for _ in records:
            pass
    else:
        _write(out, records, type(head))
    return Conversion(name, notes, tuple(shown))


def _check_out(source: Path, out: Path) -> None:
    if out.suffix not in _ENDINGS:
        raise RecordError(f"{out}: unknown ending; name it .jsonl or .parquet")
    if out.exists() and source.exists() and out.samefile(source):
        raise RecordError(f"{out}: the file that is converted; give another --out")
    if out.is_dir():
        raise RecordError(f"{out}: a folder; give the name of a file")


def _unknown_format(source: Path, format: str, fields: dict[str, Any]) -> str:
    names = ", ".join(FORMATS)
    if format != AUTO:
        return f"unknown format {format!r}; {nearest(format, FORMATS) or f'known: {names}'}"
    present = shown_name(", ".join(fields), 200) or "none"
    return (
        f"{source}: not recognized by its columns ({present}); rename them as docs/data.md shows, "
        f"or name the format: {names}"
    )


def _watched(records: Iterable[Lesson], shown: list[Lesson]) -> Iterator[Lesson]:
    for record in records:
        if len(shown) < _SHOWN:
            shown.append(record)
        yield record


def _of_one_kind(records: Iterable[Lesson], kind: type, source: Path) -> Iterator[Lesson]:
    for record in records:
        if type(record) is not kind:
            raise RecordError(
                f"{source}: its rows are of several kinds ({kind.__name__}, "
                f"{type(record).__name__}); split the file, one kind in each"
            )
        yield record


# ── writing ──────────────────────────────────────────────────────────────────────────────────


def _write(out: Path, records: Iterator[Lesson], kind: type) -> None:
    if out.suffix == ".jsonl":
        write_jsonl(out, records)
    elif issubclass(kind, Preference):
        write_preferences(out, (r for r in records if isinstance(r, Preference)), traits=())
    elif issubclass(kind, Sample):
        raise RecordError(f"{out}: samples are written as JSONL; name it .jsonl")
    else:
        _write_lessons(out, records, kind)


def _write_lessons(out: Path, records: Iterator[Lesson], kind: type) -> None:
    """Write demonstrations or plain texts as Parquet; `out` appears once it is whole."""
    import pyarrow
    from pyarrow import parquet

    string = pyarrow.string()
    messages = pyarrow.list_(pyarrow.struct({"role": string, "content": string}))
    parts = {"text": string} if kind is PlainText else {"prompt": messages, "response": string}
    schema = pyarrow.schema({"id": string, **parts})
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
            while chunk := [record.model_dump() for record in islice(records, _ROWS_AT_ONCE)]:
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(out)
    except OSError as error:
        raise RecordError(
            f"{out}: cannot be written ({error.strerror}); nothing was changed"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
