"""An append-only JSONL file that survives kill -9, a power failure and a full disk.

Entries are addressed by their offset in the file, so that an index holds a number for each entry
and not the entry: ten million answers of the judge are 80 GB as text.

Group commit: `append` writes an entry at once, so that the death of the process loses none. One
fsync then serves all entries of the last 50 ms, at most 256 of them: on a disk whose fsync takes
5 ms, one for each entry would end at 200 entries a second. A power failure may lose the entries
that `unsynced` counts. So nothing is reported as saved before it is synced: progress counts
`done - journal.unsynced`, and `sync`, `close` and the end of a `with` block leave none.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from constitution.validation import field_problems
from rlaif.data.records import RecordError

Entry = TypeVar("Entry", bound=BaseModel)

SYNC_SECONDS = 0.05
"""An append that comes so long after the last fsync makes the next one."""
SYNC_ENTRIES = 256
"""No more entries than these wait for an fsync."""

_BLOCK = 1 << 16  # bytes read at once in the search for the last whole line


class Journal(Generic[Entry]):
    """A JSONL file of entries in append order, synced to disk in groups (see above).

    path: created if missing, with its folders. kind: the pydantic model of every entry. clock:
    seconds, as of time.monotonic. Opening cuts off an incomplete last line, left by a writer that
    was killed, and syncs the others. One process at a time may open a journal; its lock ends with
    the process, however that ends. Use as a context manager. Raises RecordError when the file
    cannot be opened or synced, or another process has it open.
    """

    def __init__(
        self, path: Path, kind: type[Entry], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.unsynced = 0  # entries that a power failure may lose, the last ones
        self._kind = kind
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RecordError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            self._lock()
            self._cut_torn_line()
            self._sync_what_was_found(is_new)
        except BaseException:
            os.close(self._file)
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

    def _sync_what_was_found(self, is_new: bool) -> None:
        """What a killed writer left counts as saved from here on, and so does the file's name."""
        try:
            self._fsync()
            if is_new:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise self._not_written(error) from error

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
        """Write an entry, sync it if that is due, and return its offset.

        Raises RecordError when the disk is full; earlier entries stay readable.
        """
        line = entry.model_dump_json().encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, before)
            self.sync()  # what the message calls safe
            raise self._not_written(error) from error
        self.unsynced += 1
        if self.unsynced >= SYNC_ENTRIES or self._clock() - self._synced_at >= SYNC_SECONDS:
            self.sync()
        return before

    def sync(self) -> None:
        """Return once all entries are on the disk.

        Raises RecordError when that fails; the entries that were not synced before are taken back,
        since nobody knows how much of them is on the disk.
        """
        if not self.unsynced:
            return
        self.unsynced = 0
        try:
            self._fsync()
        except OSError as error:
            os.ftruncate(self._file, self._synced_bytes)
            raise self._not_written(error) from error

    def _fsync(self) -> None:
        os.fsync(self._file)
        self._synced_at = self._clock()
        self._synced_bytes = os.fstat(self._file).st_size

    def _not_written(self, error: OSError) -> RecordError:
        return RecordError(
            f"{self.path}: cannot be written ({error.strerror}); what it held before is safe; "
            "make room and run the same command again: it continues there"
        )

    def close(self) -> None:
        """Sync, close the file and release its lock; `scan` and `read` still work.

        Raises RecordError as `sync`; the file is closed then, too.
        """
        try:
            self.sync()
        finally:
            os.close(self._file)

    def __enter__(self) -> Journal[Entry]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
