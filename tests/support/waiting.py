"""Waiting for something to become true. The limits guard against hanging; no test depends on them.

Time is never waited out: a test waits for what it is about, however long this machine takes for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

SECONDS = 120.0

T = TypeVar("T")


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `condition` holds, while the event loop goes on. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_answered(ask: Callable[[], Awaitable[T]], wanted: T) -> None:
    """Ask again and again until the answer is the wanted one. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while await ask() != wanted:
            await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `condition` holds, in a test without an event loop. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not true after {seconds:g} s"
        time.sleep(0.02)
