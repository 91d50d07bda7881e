"""Helpers that wait for a condition; their time limits only guard against hanging.

No test sleeps for a fixed time: it waits for the condition itself, however slow the machine is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

SECONDS = 120.0

T = TypeVar("T")


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `condition` holds while the event loop keeps running. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_answered(probe: Callable[[], Awaitable[T]], wanted: T) -> None:
    """Call `probe` until it returns `wanted`. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while await probe() != wanted:
            await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `condition` holds, outside an event loop. Raises AssertionError."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not true after {seconds:g} s"
        time.sleep(0.02)
