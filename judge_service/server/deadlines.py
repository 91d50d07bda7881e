"""Which calls cannot be finished in time, judged by recent calls of the same RPC.

    refused  <=>  time left < min(seconds of the successful calls of the last 10 s, if 5 or more,
                                  that began with no more concurrent calls than now)

The quickest of them is a lower bound for the current load, so hardly any refused call could have
been answered in time, while an admitted one may still be late. Unknown here: whether the answer is
stored already, and whether this call asks for less than those did. Old calls are forgotten, so once
all calls are refused and none ends, the next one is admitted.

Left out: streams, whose duration depends on their length, and calls that only validate.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

WINDOW_SECONDS = 10.0
FEWEST = 5
_KEPT = 32  # of each RPC


class LatencyWindow:
    """The durations of recent calls, by RPC. clock: monotonic, seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: defaultdict[str, deque[tuple[float, float, int]]] = defaultdict(
            lambda: deque(maxlen=_KEPT)
        )

    def ended(self, method: str, seconds: float, concurrent: int) -> None:
        """Record a successful call: its duration, and how many calls were active as it began."""
        self._ended[method].append((self._clock(), seconds, concurrent))

    def quickest(self, method: str, concurrent: int) -> float:
        """Lower bound of a call's duration, seconds; 0 after fewer than FEWEST recent calls."""
        since = self._clock() - WINDOW_SECONDS
        recent = [
            s for when, s, load in self._ended[method] if when >= since and load <= concurrent
        ]
        return min(recent) if len(recent) >= FEWEST else 0.0
