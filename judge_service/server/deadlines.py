"""Which calls cannot be finished in time, by what others of the same RPC took lately.

    refused  <=>  time left < min(seconds of those that ended well in the last 10 s, 5 or more,
                                  begun with no more calls in hand than now)

The quickest of them bounds from below what a call takes under the load of the moment, so hardly
anything that is refused could have been answered; what is not refused may still be late. What it
cannot know: that an answer is stored already, or that this call asks for less than those did. Old
ones are forgotten: when nothing ends any more, because all were refused, the next call is let
through.

Left out: streams, whose length says nothing about their items, and calls that only validate.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

WINDOW_SECONDS = 10.0
FEWEST = 5
_KEPT = 32  # of each RPC


class LatencyWindow:
    """What calls took, by RPC."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: defaultdict[str, deque[tuple[float, float, int]]] = defaultdict(
            lambda: deque(maxlen=_KEPT)
        )

    def ended(self, method: str, seconds: float, in_hand: int) -> None:
        """A call was answered well after so many seconds; when it came, so many were in hand."""
        self._ended[method].append((self._clock(), seconds, in_hand))

    def quickest(self, method: str, in_hand: int) -> float:
        """Seconds that a call takes at least; 0 where too few ended lately to tell."""
        since = self._clock() - WINDOW_SECONDS
        lately = [s for when, s, load in self._ended[method] if when >= since and load <= in_hand]
        return min(lately) if len(lately) >= FEWEST else 0.0
