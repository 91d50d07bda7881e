"""Notices by polling that files were changed, replaced, deleted or made unreadable.

Saving a file takes several steps (truncate, write; or rename away, rename in), so a change counts
once the files look the same at two polls in a row. Files that never settle are not waited for.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

MOST_POLLS = 5
"""Polls for which a change may go on before it counts all the same."""

_Signature = tuple[int, ...]


class FileWatch:
    """Make it, or `mark`, before reading the files: a change during the reading is then seen."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self.mark()

    def mark(self) -> None:
        """What is there now is about to be read, and not a change any more."""
        self._known = self._before = self._look()
        self._unsettled = 0

    def changed(self) -> bool:
        """Whether there is a change that was not reported before. Call it once a poll."""
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
        found = file.stat()
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # not a path at all
        return (0,)
    if not stat.S_ISREG(found.st_mode):  # a pipe is read once, and a directory never
        return (stat.S_IFMT(found.st_mode),)
    # ctime changes with permissions, and where a tool sets mtime back to what it was.
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (*times, found.st_size, found.st_dev, found.st_ino)
