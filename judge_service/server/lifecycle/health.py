"""The grpc.health.v1 service: whether this server is serving, for probes and clients.

    Check   the status; NOT_FOUND for unknown services. The trailing metadata `rlaif-alarms` lists
            what an operator should look at although the server is serving, such as `tokens-stale`.
    Watch   the status now and whenever it changes; SERVICE_UNKNOWN for unknown services. It ends
            with OK when the server stops.

Each watcher has its own event and writes without a lock, so one that never reads delays neither the
others nor a change of status. (grpcio's servicer forgets every watcher when one leaves, and writes
while it holds the lock that a change of status needs.)

Health needs no token, so watches are capped, requests are read by `OpenRequests` and are short (a
watch keeps its own), and alarms are names without details.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from judge_service.server.lifecycle.open_requests import OpenRequests

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
MAX_WATCHES = 1000
MAX_REQUEST_BYTES = 1024
ALARMS_KEY = "rlaif-alarms"

_Response = health_pb2.HealthCheckResponse
_write: Any = _Response.SerializeToString


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """The health of the server as a whole ("") and of each service; NOT_SERVING until `report`.

    services: full names. max_watches: Watch calls at the same time; more are refused.
    """

    def __init__(self, services: Iterable[str], max_watches: int = MAX_WATCHES) -> None:
        self._status = dict.fromkeys(("", *services), _Response.NOT_SERVING)
        self._alarms: dict[str, tuple[str, ...]] = {}
        self._max_watches = max_watches
        self._watches: set[asyncio.Event] = set()
        self._requests = OpenRequests()
        self._closed = False

    def add_to(self, server: Any) -> None:
        """Answer the health calls of a grpc.aio server that has not started."""

        async def check(_: Any, context: Any) -> Any:
            return await self.Check(await self._requests.read(context, _parse), context)

        async def watch(_: Any, context: Any) -> None:
            await self.Watch(await self._requests.read(context, _parse), context)

        # To gRPC both take a stream of requests, of which they read one: see OpenRequests.
        handlers = {
            "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=_write),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=_write),
        }
        generic = grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
        server.add_generic_rpc_handlers((generic,))

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


def _parse(data: bytes) -> Any:
    """A request's bytes. Raises ValueError."""
    if len(data) > MAX_REQUEST_BYTES:
        raise ValueError("longer than the name of any service")
    try:
        return health_pb2.HealthCheckRequest.FromString(data)
    except DecodeError as error:
        raise ValueError("not a HealthCheckRequest") from error
