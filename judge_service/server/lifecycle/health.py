"""The grpc.health.v1 service: whether this server is serving, for probes and clients.

    Check   the status; NOT_FOUND for unknown services. The trailing metadata `rlaif-alarms` lists
            what an operator should look at although the server is serving, such as `tokens-stale`.
    Watch   the status now and whenever it changes; SERVICE_UNKNOWN for unknown services. It ends
            with OK when the server stops.

Each watcher has its own event and writes without a lock, so one that never reads delays neither the
others nor a change of status. (grpcio's servicer forgets every watcher when one leaves, and writes
while it holds the lock that a change of status needs.)

Health needs no token, so watches are capped, and alarms are names without details.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_WATCHES = 1000
ALARMS_KEY = "rlaif-alarms"

_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """The health of the server as a whole ("") and of each service; NOT_SERVING until `report`.

    services: full names. max_watches: Watch calls at the same time; more are refused.
    """

    def __init__(self, services: Iterable[str], max_watches: int = MAX_WATCHES) -> None:
        self._status = dict.fromkeys(("", *services), _Response.NOT_SERVING)
        self._alarms: dict[str, tuple[str, ...]] = {}
        self._max_watches = max_watches
        self._watches: set[asyncio.Event] = set()
        self._closed = False

    @property
    def watches(self) -> int:
        """The number of open watches."""
        return len(self._watches)

    def report(self, *, serving: bool) -> None:
        """Set the status of every service and wake the watchers."""
        status = _Response.SERVING if serving else _Response.NOT_SERVING
        self._status = dict.fromkeys(self._status, status)
        self._wake()

    def show_alarms(self, about: str, *alarms: str) -> None:
        """Replace the alarms about one part of the server; `Check` shows those of all."""
        self._alarms[about] = alarms

    def close(self) -> None:
        """End every watch after it has written the last status."""
        self._closed = True
        self._wake()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status of a service, with the alarms in the trailing metadata."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service; see reflection")
        if alarms := [alarm for each in self._alarms.values() for alarm in each]:
            context.set_trailing_metadata(((ALARMS_KEY, ",".join(alarms)),))
        return _Response(status=status)

    async def Watch(self, request: Any, context: Any) -> None:
        """Write the status now and at each change, until the caller leaves or the server stops."""
        if len(self._watches) >= self._max_watches:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"too many health watches: {self._max_watches} are open; call Check instead, or "
                "close some",
            )
        changed, last = asyncio.Event(), None
        self._watches.add(changed)
        try:
            while True:
                changed.clear()  # before the status is read: a change during the write is seen
                status = self._status.get(request.service, _Response.SERVICE_UNKNOWN)
                if status != last:
                    await context.write(_Response(status=status))
                    last = status
                elif self._closed:
                    return
                else:
                    await changed.wait()
        finally:
            self._watches.discard(changed)

    def _wake(self) -> None:
        for changed in self._watches:
            changed.set()
