"""Requests of calls that need no token, read so that unfinished ones cost a bounded amount.

gRPC has one limit on the size of a message, for all methods, and gives a message to us only once it
is complete. A caller may send a health check of megabytes and never end it; on thousands of streams
that is all of the memory. So requests are read by us, and of more than `most` at a time those end
that have not arrived within a moment, the oldest first: an honest one comes with its headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import grpc

MOST_READ = 32
_SECONDS = 5.0  # in which a request must arrive
_MOMENT = 0.5  # the same, beside `most` later ones


class OpenRequests:
    """Reads the requests of calls that nobody had to be admitted for.

    most: requests that are waited for at a time, beside those of the last moment. seconds, moment:
    in which one must arrive.
    """

    def __init__(
        self, most: int = MOST_READ, seconds: float = _SECONDS, moment: float = _MOMENT
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._moment = moment
        self._reading: dict[asyncio.Timeout, float] = {}  # oldest first -> loop time of its start

    @property
    def reading(self) -> int:
        """Requests that are waited for."""
        return len(self._reading)

    async def read(self, context: Any, parse: Callable[[bytes], Any]) -> Any:
        """The request; aborts the call without one. parse: raises ValueError for other bytes."""
        try:
            async with asyncio.timeout(self._seconds) as limit:
                self._reading[limit] = asyncio.get_running_loop().time()
                self._hurry_oldest()
                try:
                    message = await context.read()
                finally:
                    del self._reading[limit]
        except TimeoutError:
            late = "the request did not arrive in time; send it at once, with its headers"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, late)
        try:
            return parse(b"" if message is grpc.aio.EOF else message)
        except ValueError:
            malformed = "the request cannot be parsed or is too long; use grpc.health.v1"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, malformed)

    def _hurry_oldest(self) -> None:
        """Of too many, the youngest one over gets no more than its moment; so did those before."""
        excess = len(self._reading) - self._most
        if excess > 0:
            limit, started = next(islice(self._reading.items(), excess - 1, None))
            if not limit.expired():
                limit.reschedule(started + self._moment)
