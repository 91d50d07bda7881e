"""Rows of data files: JSONL, one JSON array, or Parquet, read with flat memory.

JSON files may begin with a byte order mark and may be compressed with gzip, bzip2 or xz. Whatever
a file holds, reading it gives rows that every later step can print, hash, write and tokenize, or a
RecordError naming the file, the line (in Parquet the row) and, where there is one, the field.
Refused besides text that is not JSON: lone surrogates, numbers of over 300 digits (no float holds
them), and values nested over 200 deep.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rlaif.data.files import RecordError as RecordError  # raised here, imported from here
from rlaif.data.shards.folder import data_files, is_shard_folder

if TYPE_CHECKING:
    import pyarrow

_ROWS_AT_ONCE = 1000
"""Rows of a Parquet file that are held together."""

_LARGEST_ARRAY = 1 << 30
"""Bytes of a JSON array, which is held in memory as a whole."""

_MOST_DIGITS, _DEEPEST = 300, 200
_LIMIT = 10**_MOST_DIGITS

_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive; extract it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it",
    b"ARROW1": "an Arrow file; write Parquet instead: datasets' to_parquet does",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
_TABLES = {".csv": "CSV", ".tsv": "tab-separated"}

_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)  # of files and their decompression

Row = tuple[str, dict[str, Any]]
"""The place of a row (file and line, or file and row number), and its fields."""

Value = TypeVar("Value")


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file or a folder of shards with their places; blank lines are skipped.

    Raises RecordError for a file that is missing or of another kind, for a folder of which shards
    are missing, and for an invalid row.
    """
    if is_shard_folder(path):
        for shard in data_files(path):
            yield from iter_rows(shard)
        return
    head = _head(path)
    opener = _opener(head)
    if opener is None and (path.suffix == ".parquet" or head.startswith(_PARQUET)):
        yield from _parquet_rows(path)
        return
    try:
        with opener(path) if opener else path.open("rb") as file:
            yield from _json_rows(file, path)
    except _UNREADABLE as error:
        raise RecordError(f"{path}: cannot be read ({_why(error)})") from error


def read_text(path: Path) -> str:
    """The whole text of a file, which may be compressed, without its byte order mark.

    Raises RecordError for a file that is missing, of another kind, or not UTF-8.
    """
    opener = _opener(_head(path))
    try:
        with opener(path) if opener else path.open("rb") as file:
            content: bytes = file.read()
    except _UNREADABLE as error:
        raise RecordError(f"{path}: cannot be read ({_why(error)})") from error
    return _text(content.removeprefix(_BOM), str(path), "file")


def checked(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
    """Rows that are in memory, checked as those of a file are. Raises RecordError."""
    for where, fields in rows:
        row = dict(fields)
        _refuse_unusable(row, where)
        yield where, row


def shown(value: object, longest: int = 60) -> str:
    """A value as an error message quotes it: in one line, cut to `longest` characters."""
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


# ── kinds of files ───────────────────────────────────────────────────────────────────────────


def _head(path: Path) -> bytes:
    """The first bytes of a file; raises for what is not a file of rows."""
    try:
        if problem := _why_not_a_file(path):
            raise RecordError(f"{path}: {problem}")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({_why(error)})") from error
    if kind := _TABLES.get(path.suffix.lower()):
        raise RecordError(
            f"{path}: a {kind} file, whose columns have no types; convert it to JSONL, for example "
            "with datasets: load_dataset('csv', data_files=...)['train'].to_json('rows.jsonl')"
        )
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise RecordError(f"{path}: {what}; JSONL and Parquet files are read")
    return head


def _opener(head: bytes) -> Callable[[Path], Any] | None:
    """What opens a compressed file that begins so."""
    return next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), None)


def _why_not_a_file(path: Path) -> str:
    if path.is_dir():
        return f"cannot be read (it is a folder); {_remedy_for_folder(path)}"
    if not path.exists():
        return "no such file"
    return "" if path.is_file() else "not a regular file; give a JSONL or a Parquet file"


def _remedy_for_folder(folder: Path) -> str:
    files = [p.name for p in folder.iterdir() if ".json" in p.name or p.suffix == ".parquet"]
    if not files:
        return "give a JSONL or a Parquet file"
    return f"give one of its files: {', '.join(sorted(files)[:5])}"


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────


class _LongNumber:
    """Stands for a whole number of too many digits until its field is known."""


def _integer(digits: str) -> int | _LongNumber:
    return int(digits) if len(digits) <= _MOST_DIGITS else _LongNumber()


_DECODER = json.JSONDecoder(parse_int=_integer)


def _json_rows(file: IO[bytes], path: Path) -> Iterator[Row]:
    begun = False
    for number, line in enumerate(file, start=1):
        line = line.removeprefix(_BOM)  # of joined files, in the middle too
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith(b"["):
            yield from _array_rows(_whole(line, file, path), path, number)
            return
        begun = True
        where = f"{path}:{number}"
        yield where, _fields(_decoded(_DECODER.decode, _text(line, where), where), where)


def _text(line: bytes, where: str, of: str = "line") -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the {of}); save the "
            "file as UTF-8, or give a Parquet file"
        ) from error


def _whole(line: bytes, file: IO[bytes], path: Path) -> str:
    """The rest of a file that holds one JSON array, from its first line on."""
    content = line + file.read(_LARGEST_ARRAY + 1)
    if len(content) > _LARGEST_ARRAY:
        raise RecordError(
            f"{path}: a JSON array of over {_LARGEST_ARRAY >> 30} GiB; write one object a line "
            f"instead, for example with jq -c '.[]'"
        )
    return _text(content, str(path))


def _array_rows(text: str, path: Path, line: int) -> Iterator[Row]:
    """The objects of a JSON array; `line` is the number of the text's first line."""
    at, counted = _after_space(text, text.index("[") + 1), 0
    ends = text.startswith("]", at)
    while not ends:
        # Lines are counted from the last object on: an object is named by the line it begins at.
        line += text.count("\n", counted, at)
        counted, where = at, f"{path}:{line}"
        value, at = _decoded(partial(_DECODER.raw_decode, idx=at), text, where, at)
        yield where, _fields(value, where)
        at = _after_space(text, at)
        ends = text.startswith("]", at)
        if not ends and not text.startswith(",", at):
            raise RecordError(f"{where}: not JSON (the array goes on without a comma, or is cut)")
        if not ends:
            at = _after_space(text, at + 1)
    if _after_space(text, at + 1) < len(text):
        raise RecordError(f"{path}: text after the end of the JSON array; one array, or one object "
                          "a line is expected")  # fmt: skip


def _after_space(text: str, at: int) -> int:
    match = re.compile(r"[ \t\r\n]*").match(text, at)
    return match.end() if match else at


def _decoded(decode: Callable[[str], Value], text: str, where: str, begin: int = 0) -> Value:
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        hint = "; one JSON object a line is expected" if text.strip() in ("{", "[") else ""
        what = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise RecordError(
            f"{where}: not JSON ({what}){hint}; correct or delete this line"
        ) from error
    except RecursionError:  # without its cause: a chain of a thousand frames
        raise _too_deep(where, _deep_field(text, begin)) from None


def _deep_field(text: str, begin: int) -> str:
    """The field of the object at `begin` whose value is nested too deep; "" if not found."""
    depth, name = 0, ""
    for token in re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]').finditer(text, begin):
        mark = token[0]
        depth += (mark in "[{") - (mark in "]}")
        if depth == 1 and mark[0] == '"':
            name = mark[1:-1]
        if depth > _DEEPEST:
            return name
    return ""


def _fields(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(f"{where}: not a JSON object; correct or delete this line")
    _refuse_unusable(value, where)
    return value


# ── what later steps could not use ───────────────────────────────────────────────────────────


def _refuse_unusable(fields: dict[str, Any], where: str) -> None:
    """Raise for lone surrogates, numbers too long and values too deep; without recursion."""
    left: list[tuple[str, Any, int]] = [("", fields, 0)]
    while left:
        field, value, depth = left.pop()
        if isinstance(value, str):
            _refuse_surrogates(value, field, where)
        elif isinstance(value, _LongNumber) or (
            isinstance(value, int) and not -_LIMIT < value < _LIMIT  # of rows in memory
        ):
            raise RecordError(
                f"{where}: {shown_name(field)}: a number of over {_MOST_DIGITS} digits; write it "
                "as text, or delete it"
            )
        elif isinstance(value, (dict, list, tuple)):
            if depth > _DEEPEST:
                raise _too_deep(where, field.partition(".")[0])
            left += [(_join(field, name), each, depth + 1) for name, each in _items(value, where)]


def _items(
    value: dict[str, Any] | list[Any] | tuple[Any, ...], where: str
) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        return ((str(place), each) for place, each in enumerate(value))
    for name in value:
        if not isinstance(name, str):
            raise RecordError(f"{where}: name of a field: a text is needed (found {shown(name)})")
        _refuse_surrogates(name, "name of a field", where)
    return value.items()


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def shown_name(field: str, longest: int = 80) -> str:
    """A field's name in a message: cut to `longest` characters, unprintable ones escaped."""
    name = field if field.isprintable() else ascii(field)[1:-1]
    return name if len(name) <= longest else name[: longest - 3] + "..."


def _refuse_surrogates(text: str, field: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{where}: {shown_name(field)}: not Unicode text (half a surrogate pair, "
            f"{text[error.start]!a}, at character {error.start}); correct or delete this line"
        ) from error


def _too_deep(where: str, field: str) -> RecordError:
    name = f"{shown_name(field)}: " if field else ""
    return RecordError(
        f"{where}: {name}nested over {_DEEPEST} deep; delete this field or this line"
    )


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    # Python's own errors too: pyarrow raises them for values that no Python object holds.
    broken = (pyarrow.ArrowException, OSError, ValueError, TypeError, ArithmeticError, KeyError)
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        batches = file.iter_batches(_ROWS_AT_ONCE)
    except broken as error:
        raise RecordError(f"{path}: not a Parquet file ({error})") from error
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecordError(f"{path}: several columns are named {repeated[0]!r}; rename all but one")

    number = 0
    with file:
        while True:
            try:
                batch = next(batches, None)
            except broken as error:
                raise RecordError(f"{path}: damaged after row {number - 1} ({error})") from error
            if batch is None:
                return
            columns = [_values(batch.column(i), n, number, path) for i, n in enumerate(names)]
            for values in zip(*columns, strict=True):
                fields = dict(zip(names, values, strict=True))
                where = f"{path}: row {number}, id {shown(fields.get('id'))}"
                _refuse_unusable(fields, where)
                yield where, fields
                number += 1


def _values(column: pyarrow.Array, name: str, first: int, path: Path) -> list[Any]:
    """A column's values as Python objects. `first`: the number of its first row in the file."""
    errors = (ValueError, TypeError, ArithmeticError, NotImplementedError)
    try:
        return list(column.to_pylist())
    except errors:
        for place in range(len(column)):
            try:
                column[place].as_py()
            except errors as error:
                raise RecordError(
                    f"{path}: row {first + place}: {shown_name(name)}: cannot be read ({error}); "
                    "correct the value, or remove the column"
                ) from error
        raise
