"""The judge server: thin servicers, and the life of the process around them.

A life: NOT_SERVING before anything else -> the engine loads and warms up -> SERVING -> on SIGTERM,
SIGINT or the end of standard input NOT_SERVING, and clients are told to connect elsewhere -> calls
under way finish within the grace -> the engine closes. reloading.py reads constitutions, tokens and
certificates again meanwhile. When the engine dies by itself, health says NOT_SERVING and calls fail
as UNAVAILABLE until it is back, if it runs elsewhere; one that ran here is lost, and the process
ends with an error, so that whatever started it starts it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from constitution.errors import ConstitutionError
from constitution.loader import load_text
from judge_service.engine import Engine, EngineError
from judge_service.errors import EngineLost, InvalidRequest, NotFound, ServerStartError
from judge_service.observability.metrics import NO_METRICS, NoMetrics
from judge_service.observability.tracing import NoTracing, tracing_to
from judge_service.security.interceptor import TokenGate
from judge_service.security.tls import ServerTls
from judge_service.security.tokens import Tokens
from judge_service.server.handlers import SERVICES, RequestHandler
from judge_service.server.interceptors import CallGuard
from judge_service.server.lifecycle.health import SERVICE_NAME, Health
from judge_service.server.lifecycle.reload import Reloader
from judge_service.server.registry import UNKNOWN
from judge_service.server.stream import JudgmentStream
from judge_service.server_info import ConstitutionSummary
from judge_service.settings import ServerSettings
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from judge_service.wire import constitutions as wire_constitution
from judge_service.wire import judgments as wire

_ALIVE_POLL_SECONDS = 0.5
_MAX_SOURCE = 1024
_NOTICE_SECONDS = 0.5
_FLUSH_SECONDS = 0.5

_log = logging.getLogger("judge_service")


class JudgeServicer(pb_grpc.JudgeServiceServicer):
    def __init__(self, bench: RequestHandler) -> None:
        self._bench = bench

    async def ComparePair(
        self, request: pb.ComparePairRequest, context: Any
    ) -> pb.ComparePairResponse:
        return pb.ComparePairResponse(judgment=await self._bench.compare_one(request))

    async def RankCandidates(
        self, request: pb.RankCandidatesRequest, context: Any
    ) -> pb.RankCandidatesResponse:
        return pb.RankCandidatesResponse(ranking=await self._bench.rank(request))

    async def ScoreCandidate(
        self, request: pb.ScoreCandidateRequest, context: Any
    ) -> pb.ScoreCandidateResponse:
        return pb.ScoreCandidateResponse(score=await self._bench.score(request))

    async def CritiqueCandidate(
        self, request: pb.CritiqueCandidateRequest, context: Any
    ) -> pb.CritiqueCandidateResponse:
        return pb.CritiqueCandidateResponse(critique=await self._bench.critique(request))

    async def ReviseCandidate(
        self, request: pb.ReviseCandidateRequest, context: Any
    ) -> pb.ReviseCandidateResponse:
        return pb.ReviseCandidateResponse(revision=await self._bench.revise(request))

    async def StreamJudgments(self, requests: Any, context: Any) -> None:
        limit = self._bench.settings.max_stream_in_flight
        stream = JudgmentStream(context, self._bench.compare, limit, self._bench.metrics)
        await stream.run(self._bench.draining)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        return wire.server_info_to_proto(self._bench.info())


class ConstitutionServicer(pb_grpc.ConstitutionServiceServicer):
    def __init__(self, bench: RequestHandler) -> None:
        self._bench = bench

    async def ListConstitutions(
        self, request: pb.ListConstitutionsRequest, context: Any
    ) -> pb.ListConstitutionsResponse:
        summaries = map(wire_constitution.summary_to_proto, self._bench.laws.summaries)
        return pb.ListConstitutionsResponse(constitutions=summaries)

    async def GetConstitution(
        self, request: pb.GetConstitutionRequest, context: Any
    ) -> pb.GetConstitutionResponse:
        try:
            law = await self._bench.law(request.constitution)
        except InvalidRequest as unknown:
            if unknown.reason != UNKNOWN:
                raise
            raise NotFound(str(unknown), reason=unknown.reason, fields=unknown.fields) from None
        return pb.GetConstitutionResponse(
            constitution=wire_constitution.constitution_to_proto(law), sha256=law.digest
        )

    async def ValidateConstitution(
        self, request: pb.ValidateConstitutionRequest, context: Any
    ) -> pb.ValidateConstitutionResponse:
        if len(request.source) > _MAX_SOURCE:  # every diagnostic carries it
            raise InvalidRequest("source", f"a name of up to {_MAX_SOURCE} characters")
        try:
            law = await asyncio.to_thread(load_text, request.yaml, request.source or "constitution")
        except ConstitutionError as error:
            problems = map(wire_constitution.diagnostic_to_proto, error.diagnostics)
            return pb.ValidateConstitutionResponse(diagnostics=problems)
        summary = ConstitutionSummary(law.name, law.version, law.digest)
        return pb.ValidateConstitutionResponse(
            constitution=wire_constitution.summary_to_proto(summary)
        )

    async def PreviewPrompt(
        self, request: pb.PreviewPromptRequest, context: Any
    ) -> pb.PreviewPromptResponse:
        return pb.PreviewPromptResponse(prompts=await self._bench.preview(request))


class JudgeServer:
    """The server's parts in the order of its life: `start`, `load`, `stop`. See `serve`.

    metrics: what the engine counts in too, so that one page shows both. tracing: as the settings
    say where it is None. Raises ConstitutionError and ServerStartError.
    """

    def __init__(
        self,
        settings: ServerSettings,
        engine: Engine,
        metrics: NoMetrics = NO_METRICS,
        tracing: NoTracing | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._bench = RequestHandler(settings, engine, metrics)
        self._tracing = _tracing(settings) if tracing is None else tracing
        self._guard = CallGuard(settings.max_concurrent_rpcs, metrics, self._tracing)
        metrics.watch_server(lambda: engine.alive, lambda: self._bench.laws.summaries)
        self._health = Health(service.full_name for service in SERVICES)
        gate = TokenGate(Tokens(settings.tokens)) if settings.tokens else None
        self._tls = ServerTls(settings) if settings.with_tls else None
        self._reloader = Reloader(self._bench.laws, gate, self._tls, self._health, metrics)
        self._server = grpc.aio.server(
            interceptors=[self._guard, gate] if gate else [self._guard], options=_options(settings)
        )
        self._engine_watch: asyncio.Task[None] | None = None
        self._file_watch: asyncio.Task[None] | None = None
        self.engine_lost = asyncio.Event()
        self.address = ""

    async def start(self) -> None:
        """Listen, and answer NOT_SERVING. Raises ServerStartError when the port is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        pb_grpc.add_JudgeServiceServicer_to_server(JudgeServicer(self._bench), self._server)  # type: ignore[no-untyped-call]
        pb_grpc.add_ConstitutionServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ConstitutionServicer(self._bench), self._server
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
        """Start the engine, then answer SERVING. Raises what the engine raises."""
        await self._engine.start()
        self._bench.open()
        self._health.report(serving=True)
        self._engine_watch = asyncio.create_task(self._watch_engine())

    async def stop(self) -> None:
        """NOT_SERVING, let calls finish within the grace, then close the engine.

        New calls are refused, so that clients ask another replica. Those that watch our health have
        a moment to see it; then nobody can connect any more, and connections take no new call
        (GOAWAY). Both at once would cut the calls that are just arriving, as CANCELLED.
        """
        self._bench.draining.set()
        _cancel(self._engine_watch)
        self._health.report(serving=False)
        grace = self._settings.grace_seconds
        drained = asyncio.create_task(self._guard.drain(grace))
        await asyncio.wait({drained}, timeout=_NOTICE_SECONDS)
        leaving = asyncio.create_task(self._server.stop(grace + _FLUSH_SECONDS))
        await drained
        _cancel(self._file_watch)  # not before: a token may be revoked while calls finish
        # Not before connections take no new call: clients would ask for their watches again.
        self._health.close()
        # Answers of the last moment still leave; then what does not end by itself is cut: watches
        # of health whose clients never read.
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
                f"cannot show metrics on {host}:{port}: {error.strerror}; stop what listens there, "
                "or set metrics_port (0 takes a free one) or metrics_host to another"
            ) from error

    async def _watch_engine(self) -> None:
        """Health follows the engine; one that runs elsewhere may come back."""
        serving = True
        while True:
            await asyncio.sleep(_ALIVE_POLL_SECONDS)
            if self._engine.alive == serving:
                continue
            serving = self._engine.alive
            self._health.report(serving=serving)
            if serving:
                _log.info("the engine is back: serving again")
            elif self._engine.recovers:
                _log.error("the engine is out of reach: not serving until it answers again")
            else:
                _log.error("the engine died: not serving")
                self.engine_lost.set()
                return

    def reload(self) -> None:
        """Read constitutions, tokens and certificates again; see `reloading`."""
        self._reloader.reload()


async def serve(
    settings: ServerSettings,
    engine: Engine,
    *,
    metrics: NoMetrics = NO_METRICS,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or, if so set, the end of standard input.

    `ready` is called with the address once the engine is warm. Raises ServerStartError (a busy
    port, an engine that does not start), EngineLost when it died later, ConstitutionError, and the
    engine's own user errors.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    if settings.exit_on_stdin_close:
        _on_stdin_close(lambda: loop.call_soon_threadsafe(stop.set))
    server = JudgeServer(settings, engine, metrics)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    await server.start()
    _log.info("listening on %s, loading %s", server.address, settings.model)
    loading = asyncio.create_task(server.load())
    stopping = asyncio.create_task(stop.wait())
    losing = asyncio.create_task(server.engine_lost.wait())
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            _log.info("serving on %s", server.address)
            if ready is not None:
                ready(server.address)
            await asyncio.wait({stopping, losing}, return_when=asyncio.FIRST_COMPLETED)
    except EngineError as error:
        raise ServerStartError(f"the engine did not start: {error}") from error
    finally:
        for waiting in (loading, stopping, losing):
            waiting.cancel()
        await server.stop()
    if server.engine_lost.is_set() and not stop.is_set():
        raise EngineLost(
            "the engine died; the log above has its last words. Start the server again; if it dies "
            "again for want of memory, lower kv_cache_gib or max_context_tokens"
        )


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
        ("grpc.so_reuseport", 0),  # or two servers silently share one port
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Lets a client ping an idle connection every 10 s without being sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),  # notices clients that vanished
    ]


def _check_free(host: str, port: int) -> None:
    """Raises ServerStartError unless one can listen at every address that the host stands for."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ServerStartError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what listens there, "
            "or take another address (--port, --host)"
        ) from error


def _on_stdin_close(then: Callable[[], object]) -> None:
    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        then()

    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()
