"""Detection of saves of a file, by polling it every half second.

An editor may write a file in pieces or replace it, so a change counts once two polls in a row give
the same result. Left out: inotify and similar, which miss saves on network file systems.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.5


def saves(path: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yield at once, then after every save, without end. A missing file is waited for."""
    reported = before = _signature(path)
    yield
    while True:
        wait(POLL_S)
        current = _signature(path)
        if current is not None and current == before and current != reported:
            reported = current
            yield
        before = current


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
