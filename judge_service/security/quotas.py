"""What one token may ask for: calls at a time, and requests a minute.

The requests are a token bucket: it holds a minute's worth, c = max(1, r) for r requests a minute,
is full at the start and gains r / 60 a second. A request takes one out of it. So at most c requests
come at once, r a minute in the long run, and never more than c + r in any one minute.

    a call      takes one if there is one, and is else refused, with the wait until there is one
    a stream    is one call at a time as long as it lasts; each of its items is a request, and
                waits for its turn instead of being refused: a bulk stream is slowed, never cut.
                It leaves one request in the bucket (where that holds two), so that a single call
                with the same token is not starved by a stream.

GetServerInfo is free, because clients poll it while the model loads. The counts are of this server
alone: with n replicas a token may do n times as much. `now` below is in seconds, of any clock that
does not jump.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from judge_service.errors import Overloaded
from judge_service.rpc import find_rpc
from judge_service.security.tokens import Token


class Bucket:
    """Requests that may be made; `per_minute` of them come in a minute."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.capacity = max(1.0, per_minute)
        self._per_second = per_minute / 60
        self._level = self.capacity
        self._updated = now

    def take(self, now: float, leave: float = 0.0) -> float:
        """0 when one was taken; else the seconds until there will be one more than `leave`."""
        gained = (now - self._updated) * self._per_second
        self._level = min(self.capacity, self._level + gained)
        self._updated = now
        missing = 1 + leave - self._level
        if missing > 1e-9:  # so that one who waited as long as told is not refused by rounding
            return missing / self._per_second
        self._level = max(0.0, self._level - 1)
        return 0.0


class Quota:
    """One token's limits, and what it uses of them now. `sleep` waits on the clock's time."""

    def __init__(
        self,
        token: Token,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.limits = (token.requests_per_minute, token.max_concurrent)
        self._clock = clock
        self._sleep = sleep
        self._most = token.max_concurrent
        self._active = 0
        per_minute = token.requests_per_minute
        self._bucket = None if per_minute is None else Bucket(per_minute, clock())
        self._turns = asyncio.Lock()  # one waits for the bucket, the others behind it, in order

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Holds one of the calls at a time. Raises Overloaded when all are taken."""
        if self._most is not None and self._active >= self._most:
            raise Overloaded(
                f"this token has its {self._most} calls in hand; wait until one has ended",
                reason="MAX_CONCURRENT",
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def request(self) -> None:
        """Count one request. Raises Overloaded, with the wait until there is room for it."""
        if self._bucket is None:
            return
        wait = self._bucket.take(self._clock())
        if wait:
            raise Overloaded(
                f"this token's requests a minute ({self.limits[0]:g}) are used up; "
                f"the next may come in {wait:.3g} s",
                reason="REQUESTS_PER_MINUTE",
                retry_seconds=wait,
            )

    async def turn(self) -> None:
        """Count one request of a stream, as soon as it may be made."""
        if self._bucket is None:
            return
        leave = min(1.0, self._bucket.capacity - 1)
        async with self._turns:
            while wait := self._bucket.take(self._clock(), leave):
                await self._sleep(wait)


class Quotas:
    """The quota of every token that has called, by its name. What is used outlives a reload of the
    file; a token whose limits were changed there starts anew."""

    def __init__(self) -> None:
        self._quotas: dict[str, Quota] = {}

    @contextmanager
    def call(self, token: Token, method: str) -> Iterator[None]:
        """Around one call. Raises Overloaded."""
        unit = find_rpc(method).quota
        if unit == "free":
            yield
            return
        quota = self._of(token)
        with quota.occupied():
            if unit == "call":
                quota.request()
            yield

    async def turn(self, token: Token) -> None:
        """Before one item of a stream: return when it may be done."""
        await self._of(token).turn()

    def _of(self, token: Token) -> Quota:
        quota = self._quotas.get(token.name)
        limits = (token.requests_per_minute, token.max_concurrent)
        if quota is None or quota.limits != limits:
            quota = self._quotas[token.name] = Quota(token)
        return quota
