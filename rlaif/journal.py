"""An append-only JSONL file that survives kill -9 and a full disk."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from rlaif.records import RecordError

Entry = TypeVar("Entry", bound=BaseModel)


class Journal(Generic[Entry]):
    """Entries in the order they came, one line each, on disk before `append` returns.

    `entries` holds what the file held when it was opened. A last line without its end (the process
    was killed while writing) is cut off; any other line that cannot be read raises RecordError with
    its number. One process at a time: the lock goes with the process, however it ends.
    """

    def __init__(self, path: Path, kind: type[Entry]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RecordError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            self._lock()
            self.entries = list(self._read(kind))
        except BaseException:
            self.close()
            raise
        self._count = len(self.entries)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"{self.path}: another process is writing here; wait for it or end it"
            ) from error

    def _read(self, kind: type[Entry]) -> Iterator[Entry]:
        whole = 0  # bytes up to the end of the last complete line
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors()[0]
                    field = ".".join(str(part) for part in first["loc"])
                    raise RecordError(
                        f"{self.path}:{number}: {field + ': ' if field else ''}{first['msg']}; "
                        "delete this line and run again: only what it held is asked for again"
                    ) from error
                whole += len(line)
        os.ftruncate(self._file, whole)

    def append(self, entry: Entry) -> None:
        """Raises RecordError on a full disk; what was there before stays readable."""
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
                f"{self.path}: cannot be written ({error.strerror}); the {self._count} entries "
                "before are safe; make room and run the same command again: it continues there"
            ) from error
        self._count += 1

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal[Entry]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
