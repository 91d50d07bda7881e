"""The page of metrics over plain HTTP: a bounded number of requests at a time, each for seconds.

A client that sends a byte now and then is cut off as well: the time is that of the whole request.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

MOST_REQUESTS = 8
_REQUEST_SECONDS = 10


class _Request(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


class PageServer(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread; while MOST_REQUESTS are open, further ones are closed."""

    request_seconds = _REQUEST_SECONDS  # from its connection to the end of its answer
    daemon_threads = True
    block_on_close = False  # a client that neither sends nor reads delays no shutdown
    _free: threading.BoundedSemaphore
    _ends: dict[socket.socket, float]  # the open requests, and when each is cut off

    @classmethod
    def of(cls, registry: CollectorRegistry, host: str, port: int) -> Self:
        """A server of this registry's page; port 0 picks a free one. Raises OSError."""
        kind = type(cls.__name__, (cls,), {"address_family": _family(host, port)})
        server: Self = make_server(host, port, make_wsgi_app(registry), kind, _Request)
        server._free, server._ends = threading.BoundedSemaphore(MOST_REQUESTS), {}
        return server

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, or close it."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request, in its thread."""
        self._ends[request] = time.monotonic() + self.request_seconds
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._ends[request]
            self._free.release()

    def service_actions(self) -> None:
        """Twice a second: cut the connections whose time is over."""
        super().service_actions()
        now = time.monotonic()
        for request, end in list(self._ends.items()):
            if end < now:
                _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


def _cut(request: socket.socket) -> None:
    """Ends what a thread reads from or writes to a connection."""
    with suppress(OSError):  # it has just ended by itself
        request.shutdown(socket.SHUT_RDWR)


def _family(host: str, port: int) -> socket.AddressFamily:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
