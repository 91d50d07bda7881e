"""An append-only JSONL file that survives kill -9 and a full disk.

Entries are addressed by their offset in the file, so that an index holds a number for each entry
and not the entry: ten million answers of the judge are 80 GB as text.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from constitution.validation import field_problems
from rlaif.data.records import RecordError

Entry = TypeVar("Entry", bound=BaseModel)

_BLOCK = 1 << 16  # bytes read at once in the search for the last whole line


class Journal(Generic[Entry]):
    """A JSONL file of entries in append order, each synced to disk before `append` returns.

    path: created if missing, with its folders. kind: the pydantic model of every entry. Opening
    cuts off an incomplete last line, left by a writer that was killed. One process at a time may
    open a journal; its lock ends with the process, however that ends. Use as a context manager.
    Raises RecordError when the file cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, kind: type[Entry]) -> None:
        self.path = path
        self._kind = kind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RecordError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            self._lock()
            self._cut_torn_line()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"{self.path}: another process writes to this file; wait for it or stop it"
            ) from error

    def _cut_torn_line(self) -> None:
        end = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - _BLOCK)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        os.ftruncate(self._file, end)

    def scan(self) -> Iterator[tuple[int, Entry]]:
        """Yield (offset, entry) of every entry. Raises RecordError naming an invalid line."""
        place = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield place, self._parse(line, number)
                place += len(line)

    def read(self, places: Iterable[int]) -> Iterator[Entry]:
        """Yield the entries at offsets from `scan` or `append`; works on a closed journal too."""
        with self.path.open("rb") as lines:
            for place in places:
                lines.seek(place)
                yield self._kind.model_validate_json(lines.readline())

    def _parse(self, line: bytes, number: int) -> Entry:
        try:
            return self._kind.model_validate_json(line)
        except ValidationError as error:
            problem = field_problems(error, self._kind, noun="field")[0]
            raise RecordError(
                f"{self.path}:{number}: {problem}; "
                "delete this line and run again: only its content is computed again"
            ) from error

    def append(self, entry: Entry) -> int:
        """Append an entry and sync it to disk; returns its offset.

        Raises RecordError when the disk is full; earlier entries stay readable.
        """
        line = entry.model_dump_json().encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise RecordError(
                f"{self.path}: cannot be written ({error.strerror}); what it held before is safe; "
                "make room and run the same command again: it continues there"
            ) from error
        return before

    def close(self) -> None:
        """Close the file and release its lock; `scan` and `read` still work."""
        os.close(self._file)

    def __enter__(self) -> Journal[Entry]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
