"""Estimate of the time left, from the speed in the later half of the elapsed time.

    left = (total - done) · (seconds of the later half / units done in the later half)

Units that were finished before the start (labels of an earlier run, reads in a store) take no time
and fall in the first half, so they do not inflate the measured speed.
"""

from __future__ import annotations

from collections import deque

_SAMPLES = 64  # kept from the later half, at most


class TimeLeft:
    """Estimator of the time left for `total` units of work; the caller gives the time.

    Example: `left = TimeLeft(100); left.update(0, now=0.0); left.update(50, now=10.0)` → 10.0
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._samples: deque[tuple[float, float]] = deque()  # (second, units done)
        self._start = 0.0

    def update(self, done: float, now: float) -> float | None:
        """Seconds left when `done` units are finished at second `now`; None before any progress."""
        if not self._samples:
            self._start = now
            self._samples.append((now, done))
            return None
        # drop samples of the first half, but keep the last one before its end as the base
        middle = (self._start + now) / 2
        while len(self._samples) > 1 and self._samples[1][0] <= middle:
            self._samples.popleft()
        second, before = self._samples[0]
        if now - self._samples[-1][0] >= (now - self._start) / _SAMPLES:
            self._samples.append((now, done))
        if done <= before or now <= second:
            return None
        return (self._total - done) * (now - second) / (done - before)
