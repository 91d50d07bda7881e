"""Which calls cannot be finished in time, by what others of the same RPC took lately.

    refused  <=>  time left < min(seconds of those that ended well in the last 10 s, 5 or more)

The quickest of them bounds from below what a call takes under the load of the moment, so what is
refused could not have been answered; what is not refused may still be late. Old ones are forgotten:
when nothing ends any more, because all were refused, the next call is let through.

Left out: streams, whose length says nothing about their items.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

WINDOW_SECONDS = 10.0
FEWEST = 5
_KEPT = 32  # of each RPC


class Pace:
    """What calls took, by RPC."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: defaultdict[str, deque[tuple[float, float]]] = defaultdict(
            lambda: deque(maxlen=_KEPT)
        )

    def ended(self, method: str, seconds: float) -> None:
        """A call was answered well after so many seconds."""
        self._ended[method].append((self._clock(), seconds))

    def quickest(self, method: str) -> float:
        """Seconds that a call takes at least; 0 where too few ended lately to tell."""
        since = self._clock() - WINDOW_SECONDS
        lately = [seconds for when, seconds in self._ended[method] if when >= since]
        return min(lately) if len(lately) >= FEWEST else 0.0
