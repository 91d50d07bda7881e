"""The gRPC server and its life cycle.

    start   listen; health is NOT_SERVING
    load    the engine loads and warms up; health is SERVING
    stop    health is NOT_SERVING, clients connect elsewhere, calls in progress finish within the
            grace period, and the engine closes

While it runs, lifecycle/reload.py reads constitutions, tokens and certificates again. When the
engine dies, health is NOT_SERVING and calls fail as UNAVAILABLE. An engine that runs elsewhere may
recover; after the loss of one that ran here, `serve` ends with an error, so that a supervisor
restarts the process.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket

import grpc
from grpc_reflection.v1alpha import reflection

from judge_service.engine import Engine
from judge_service.engines.caching import CachingEngine
from judge_service.errors import ServerStartError
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import NoTracing, tracing_to
from judge_service.security.interceptor import TokenGate
from judge_service.security.peers import PeerGate
from judge_service.security.tls import ServerTls
from judge_service.security.tokens import Tokens
from judge_service.server.handlers import SERVICES, RequestHandler
from judge_service.server.incoming import RequestReader
from judge_service.server.interceptors import CallGuard
from judge_service.server.lifecycle.health import SERVICE_NAME, Health
from judge_service.server.lifecycle.reload import Reloader
from judge_service.server.servicers import ConstitutionServicer, JudgeServicer
from judge_service.settings import ServerSettings
from judge_service.v1 import judge_pb2_grpc as pb_grpc

_ALIVE_POLL_SECONDS = 0.5
_NOTICE_SECONDS = 0.5
_FLUSH_SECONDS = 0.5
MORE_STREAMS = 64  # of one connection, beside the server's calls: health, reflection, refusals
_HANDSHAKE_SECONDS = 10
_AGED_SECONDS = 600  # in which the calls of a connection that reached its age may end

_log = logging.getLogger("judge_service")


class JudgeServer:
    """A server of one engine: `start`, `load`, `stop`, as `run.serve` calls them.

    metrics: shared with the engine, so that one page shows both. tracing: None takes the settings'.
    address: host:port once started. engine_lost: set when the engine has died for good.
    Raises ConstitutionError and ServerStartError.
    """

    def __init__(
        self,
        settings: ServerSettings,
        engine: Engine,
        metrics: NoMetrics = NO_METRICS,
        tracing: NoTracing | None = None,
    ) -> None:
        # Everything that reads files does so here, so that a wrong one fails before listening.
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._handler = RequestHandler(settings, engine, metrics)
        self._tracing = _tracing(settings) if tracing is None else tracing
        calls = settings.max_concurrent_rpcs
        self._guard = CallGuard(
            calls, metrics, self._tracing, request_seconds=settings.request_seconds
        )
        metrics.watch_server(lambda: engine.alive, lambda: self._handler.constitutions.summaries)
        self._health = Health(service.full_name for service in SERVICES)
        half = max(1, calls // 2)  # one caller leaves the other half to others
        gate = TokenGate(Tokens(settings.tokens), half) if settings.tokens else None
        self._tls = ServerTls(settings) if settings.with_tls else None
        self._reloader = Reloader(
            self._handler.constitutions, gate, self._tls, self._health, metrics
        )
        # The guard is outermost: it turns the gate's refusals into rich statuses. The request is
        # read innermost, when both have admitted the call.
        reading = RequestReader(settings.max_fields)
        self._server = grpc.aio.server(
            interceptors=[self._guard, gate or PeerGate(half), reading],
            options=_options(settings),
        )
        self._engine_watch: asyncio.Task[None] | None = None
        self._file_watch: asyncio.Task[None] | None = None
        self.engine_lost = asyncio.Event()
        self.address = ""

    async def start(self) -> None:
        """Listen, and answer NOT_SERVING. Raises ServerStartError when the port is taken."""
        self._health.add_to(self._server)
        pb_grpc.add_JudgeServiceServicer_to_server(JudgeServicer(self._handler), self._server)  # type: ignore[no-untyped-call]
        pb_grpc.add_ConstitutionServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ConstitutionServicer(self._handler), self._server
        )
        if self._settings.with_reflection:
            names = [service.full_name for service in SERVICES]
            names += [SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self.address = self._bind()
        self._open_metrics()
        await self._server.start()
        self._file_watch = asyncio.create_task(self._reloader.watch())

    async def load(self) -> None:
        """Start the engine, then answer SERVING. Raises the engine's errors."""
        await self._engine.start()
        self._handler.open()
        self._health.report(serving=True)
        self._engine_watch = asyncio.create_task(self._watch_engine())

    async def stop(self) -> None:
        """Answer NOT_SERVING, let calls finish within the grace period, then close the engine.

        New calls are refused, so that clients turn to another replica. Clients that watch our
        health get a moment to see it before the listener closes and connections accept no new call
        (GOAWAY): at once, both would cut calls that are just arriving, as CANCELLED.
        """
        # Refuse new calls and let watchers see it.
        self._handler.draining.set()
        _cancel(self._engine_watch)
        self._health.report(serving=False)
        grace = self._settings.grace_seconds
        drained = asyncio.create_task(self._guard.drain(grace))
        await asyncio.wait({drained}, timeout=_NOTICE_SECONDS)
        leaving = asyncio.create_task(self._server.stop(grace + _FLUSH_SECONDS))
        await drained
        _cancel(self._file_watch)  # not earlier: a token may be revoked while calls finish
        # Not earlier, while connections accept calls: clients would open their watches again.
        self._health.close()
        # Flush the last answers, then cut what does not end by itself, such as health watches
        # whose clients never read.
        await self._server.stop(_FLUSH_SECONDS)
        await leaving
        await self._engine.close()
        await self._metrics.close()
        await asyncio.to_thread(self._tracing.close)

    def _bind(self) -> str:
        host, port = self._settings.host, self._settings.port
        _check_free(host, port)
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(f"{shown}:{port}")
            else:
                port = self._server.add_secure_port(f"{shown}:{port}", self._tls.credentials())
        except RuntimeError as error:
            raise ServerStartError(f"cannot listen on {shown}:{port}: {error}") from error
        return f"{shown}:{port}"

    def _open_metrics(self) -> None:
        try:
            self._metrics.open()
        except OSError as error:
            host, port = self._settings.metrics_host, self._settings.metrics_port
            raise ServerStartError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}; stop what listens "
                "there, or change metrics_port (0 picks a free one) or metrics_host"
            ) from error

    async def _watch_engine(self) -> None:
        """Keep health in step with the engine; one that runs elsewhere may recover."""
        serving = True
        while True:
            await asyncio.sleep(_ALIVE_POLL_SECONDS)
            if isinstance(self._engine, CachingEngine):
                self._health.show_alarms("store", *self._engine.alarms)
            if self._engine.alive == serving:
                continue
            serving = self._engine.alive
            self._health.report(serving=serving)
            if serving:
                _log.info("the engine recovered: serving again")
            elif self._engine.recovers:
                _log.error("the engine is out of reach: not serving until it answers")
            else:
                _log.error("the engine died: not serving")
                self.engine_lost.set()
                return

    def reload(self) -> None:
        """Read constitutions, tokens and certificates again; see lifecycle/reload.py."""
        self._reloader.reload()


def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()


def _tracing(settings: ServerSettings) -> NoTracing:
    try:
        return tracing_to(settings.otlp_endpoint)
    except ImportError as error:
        raise ServerStartError(str(error)) from error


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # with it, two servers would silently share a port
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A client may ping an idle connection every 10 s; gRPC's default would disconnect it.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),  # detects clients that vanished
        ("grpc.keepalive_timeout_ms", 20_000),
        # What a caller holds before it is known is bounded in number and in time. One connection
        # may carry all calls of the server and some, so that excess calls are refused, not queued.
        ("grpc.max_concurrent_streams", settings.max_concurrent_rpcs + MORE_STREAMS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", _ms(settings.connection_idle_seconds)),
        ("grpc.max_connection_age_ms", _ms(settings.connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", _AGED_SECONDS * 1000),
        ("grpc.max_allowed_incoming_connections", max_connections()),
    ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def max_connections() -> int:
    """Half of the files that this process may open; the other half is for everything else."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def _check_free(host: str, port: int) -> None:
    """Raises ServerStartError unless every address of the host is free."""
    try:
        places = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in places:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ServerStartError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what listens there, "
            "or choose another address (--port, --host)"
        ) from error
