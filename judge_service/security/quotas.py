"""Limits per token: concurrent calls, and requests per minute.

The requests are a token bucket: it holds a minute's worth, c = max(1, r) for r requests per minute,
is full at the start and gains r / 60 per second. A request takes one out. So at most c requests
come at once, r per minute in the long run, and never more than c + r in any one minute.

    a call      takes one request, or is refused with the time until there is one
    a stream    is one concurrent call as long as it lasts; each item is a request, and waits
                instead of being refused: a bulk stream is slowed, never cut. It leaves one request
                in the bucket (if that holds two), so that it does not starve single calls with the
                same token

Which RPC counts as what is a column of the table in judge_service/rpc.py. The limits are those of
this server alone: with n replicas a token may do n times as much. `now` below is in seconds, of a
monotonic clock.
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
    """A token bucket of requests, full at `now` and refilled with `per_minute`."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.capacity = max(1.0, per_minute)
        self._per_second = per_minute / 60
        self._level = self.capacity
        self._updated = now

    def take(self, now: float, leave: float = 0.0) -> float:
        """Take a request; returns 0, or the seconds until there is one more than `leave`."""
        gained = (now - self._updated) * self._per_second
        self._level = min(self.capacity, self._level + gained)
        self._updated = now
        missing = 1 + leave - self._level
        if missing > 1e-9:  # a caller that waited exactly as long is not refused by rounding
            return missing / self._per_second
        self._level = max(0.0, self._level - 1)
        return 0.0


class Quota:
    """One token's limits and their use.

    clock: a monotonic clock, seconds. sleep: waits in that clock's time; tests replace both.
    limits: (requests per minute, concurrent calls) of the entry. max_concurrent: the most calls,
    which an entry without a limit of its own has too.
    """

    def __init__(
        self,
        token: Token,
        max_concurrent: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._max_concurrent = max_concurrent
        self._active = 0
        self._turns = asyncio.Lock()  # one item waits for the bucket, the others behind it, FIFO
        self.set_limits(token)

    def set_limits(self, token: Token) -> None:
        """Take the limits of an entry, with a full bucket; calls in progress stay counted."""
        self.limits = (token.requests_per_minute, token.max_concurrent)
        self._most = min(token.max_concurrent or self._max_concurrent, self._max_concurrent)
        per_minute = token.requests_per_minute
        self._bucket = None if per_minute is None else Bucket(per_minute, self._clock())

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Holds one of the concurrent calls. Raises Overloaded when all are in use."""
        if self._active >= self._most:
            raise Overloaded(
                f"this token is at its limit of {self._most} concurrent calls; retry when one ends",
                reason="MAX_CONCURRENT",
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def request(self) -> None:
        """Count one request. Raises Overloaded, with the time until the next one."""
        if self._bucket is None:
            return
        wait = self._bucket.take(self._clock())
        if wait:
            raise Overloaded(
                f"this token's requests per minute ({self.limits[0]:g}) are used up; "
                f"retry in {wait:.3g} s",
                reason="REQUESTS_PER_MINUTE",
                retry_seconds=wait,
            )

    async def await_item(self) -> None:
        """Count one item of a stream, as soon as the limit allows it."""
        if self._bucket is None:
            return
        async with self._turns:
            while bucket := self._bucket:  # a reload may replace it
                leave = min(1.0, bucket.capacity - 1)
                wait = bucket.take(self._clock(), leave)
                if not wait:
                    break
                await self._sleep(wait)


class Quotas:
    """The quota of every token that has called, by its name.

    It survives a reload of the file; a token whose limits were changed there has a full bucket.
    max_concurrent: calls of any one token at the same time, so that one caller is not all of them.
    """

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._quotas: dict[str, Quota] = {}

    @contextmanager
    def call(self, token: Token, method: str) -> Iterator[None]:
        """Around one call, which is counted as its RPC's row in judge_service/rpc.py says.

        Raises Overloaded, with the time until a retry, when the token is at a limit.
        """
        unit = find_rpc(method).quota
        if unit == "free":
            yield
            return
        quota = self._of(token)
        with quota.occupied():
            if unit == "call":
                quota.request()
            yield

    async def await_item(self, token: Token) -> None:
        """Before one item of a stream: return when the limit allows it."""
        await self._of(token).await_item()

    def _of(self, token: Token) -> Quota:
        quota = self._quotas.get(token.name)
        if quota is None:
            quota = self._quotas[token.name] = Quota(token, self._max_concurrent)
        elif quota.limits != (token.requests_per_minute, token.max_concurrent):
            quota.set_limits(token)
        return quota
