"""How long others keep an event loop from its next turn, in CPU time of the process.

CPU time and not time of day: on a busy machine a process waits for others. On a single core, so
that a thread that leaves the GIL to the loop takes turns with it, and one that holds it does not.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class Heartbeats:
    """Turns the running loop as fast as it goes. worst: CPU seconds between two turns."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.beats = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            self.worst = max(self.worst, now - last)
            self.beats += 1
            last = now


@contextmanager
def on_one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
