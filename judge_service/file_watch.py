"""Polling file watcher: detects changed, replaced, deleted and unreadable files.

Saving a file takes several steps (truncate and write, or two renames), so a change counts once two
consecutive polls see the same state. Files that never settle count after MOST_POLLS polls.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

MOST_POLLS = 5
"""Polls after which an ongoing change counts anyway."""

_Signature = tuple[int, ...]


class FileWatch:
    """Watches files. Create it, or call `mark`, before reading them, to see changes meanwhile."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)
        self.mark()

    def mark(self) -> None:
        """Take the current state as known: it is about to be read."""
        self._known = self._before = self._look()
        self._unsettled = 0

    def changed(self) -> bool:
        """Whether there is a change not reported before. Call it once per poll."""
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
    except ValueError:  # not a valid path, as with a NUL
        return (0,)
    if not stat.S_ISREG(status.st_mode):  # a pipe is read only once, a directory never
        return (stat.S_IFMT(status.st_mode),)
    # ctime also changes with permissions, and when a tool restores the old mtime.
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (*times, status.st_size, status.st_dev, status.st_ino)
