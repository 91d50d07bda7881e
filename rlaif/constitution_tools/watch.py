"""Says when a file was saved, by looking at it every half second.

An editor may write a file in pieces, or replace it: a change counts once the file has looked the
same at two looks in a row. Left out: inotify and its like, which miss saves over network folders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.5


def saves(path: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Yields at once, then after every save; never ends. A file that is gone is waited for."""
    told = before = _signature(path)
    yield
    while True:
        wait(POLL_S)
        now = _signature(path)
        if now is not None and now == before and now != told:
            told = now
            yield
        before = now


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
