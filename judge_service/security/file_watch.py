"""Detects by polling that files were changed, replaced, deleted or made unreadable.

Saving a file takes several steps (truncate, write; or rename away, rename in), so a change counts
once the files look the same at two polls in a row, or after MOST_POLLS polls.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

MOST_POLLS = 5
"""Polls after which a change that still goes on counts nevertheless."""

_Signature = tuple[int, ...]


class FileWatch:
    """The changes of `files` since they were read. Files that do not exist are watched, too.

    Create it, or call `mark`, before reading the files, so that a change meanwhile is detected.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self.mark()

    def mark(self) -> None:
        """Take the current state as read: it is not a change any more."""
        self._known = self._before = self._look()
        self._unsettled = 0

    def changed(self) -> bool:
        """Whether there is an unreported change. Call it once per poll."""
        now, before = self._look(), self._before
        self._before = now
        if now == self._known:
            self._unsettled = 0
            return False
        self._unsettled += 1
        if now != before and self._unsettled < MOST_POLLS:
            return False
        self.mark()
        return True

    def _look(self) -> tuple[_Signature, ...]:
        return tuple(map(_signature, self._files))


def _signature(file: Path) -> _Signature:
    try:
        status = file.stat()
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # not a valid path
        return (0,)
    if not stat.S_ISREG(status.st_mode):  # a pipe is read once, and a directory never
        return (stat.S_IFMT(status.st_mode),)
    # ctime changes with permissions, and also when a tool restores mtime.
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (*times, status.st_size, status.st_dev, status.st_ino)
