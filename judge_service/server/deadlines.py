"""Which calls cannot be finished in time, judged by recent calls like them.

    refused  <=>  time left < min(seconds of the successful calls of the last 10 s, if 5 or more,
                                  that are like it and began with no more concurrent calls than now)

Calls are alike that have the same RPC, caller, constitution and options, and texts of the same
size within a factor of two: whoever asks for slow work delays no other's quick calls by it, nor its
own. The quickest of them is a lower bound for the current load, so hardly any refused call could
have been answered in time, while an admitted one may still be late. Unknown here: whether the
answer is stored already. Old calls are forgotten, so once all calls are refused and none ends, the
next one is admitted.

Left out: streams, whose duration depends on their length, and calls that only validate.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

WINDOW_SECONDS = 10.0
FEWEST = 5
_KEPT = 32  # of each kind of call
_KINDS = 1024


def kind_of(method: str, caller: str, request: Any) -> Hashable:
    """What calls that are alike have in common."""
    asked = [
        getattr(request, field).SerializeToString(deterministic=True)
        for field in ("constitution", "options")
        if field in request.DESCRIPTOR.fields_by_name
    ]
    return hash((method, caller, *asked, request.ByteSize().bit_length()))


class LatencyWindow:
    """The durations of recent calls, by kind. clock: monotonic, seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: OrderedDict[Hashable, deque[tuple[float, float, int]]] = OrderedDict()

    def ended(self, kind: Hashable, seconds: float, concurrent: int) -> None:
        """Record a successful call: its duration, and how many calls were active as it began."""
        recent = self._ended.setdefault(kind, deque(maxlen=_KEPT))
        recent.append((self._clock(), seconds, concurrent))
        self._ended.move_to_end(kind)
        while len(self._ended) > _KINDS:
            self._ended.popitem(last=False)

    def quickest(self, kind: Hashable, concurrent: int) -> float:
        """Lower bound of a call's duration, seconds; 0 after fewer than FEWEST recent calls."""
        since = self._clock() - WINDOW_SECONDS
        recent = [
            s for when, s, load in self._ended.get(kind, ()) if when >= since and load <= concurrent
        ]
        return min(recent) if len(recent) >= FEWEST else 0.0
