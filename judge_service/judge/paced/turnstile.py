"""Spreads steps that are ready at the same time over turns of the event loop.

asyncio runs everything that is ready before it looks for anything new, so a request that starts
thousands of tasks would delay every other by all their first steps together. Here at most
`per_turn` of them start in one turn; the others wait, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turnstile:
    """Admits at most `per_turn` callers in each turn of the event loop."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._refilling = False

    async def turn(self) -> None:
        """Return at once while this turn admits more, else in a later one."""
        loop = asyncio.get_running_loop()
        if not self._refilling:
            self._refilling = True
            loop.call_soon(self._refill)
        if self._left and not self._waiting:
            self._left -= 1
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _refill(self) -> None:
        self._left = self._per_turn
        self._refilling = bool(self._waiting)
        while self._waiting and self._left:
            admitted = self._waiting.popleft()
            if not admitted.done():  # its caller was cancelled
                admitted.set_result(None)
                self._left -= 1
        if self._refilling:
            asyncio.get_running_loop().call_soon(self._refill)
