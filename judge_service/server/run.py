"""Runs a judge server in this process, from its settings until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from constitution.schema import Constitution
from hardware.memory import give_back_freed
from judge_service.engine import Engine, EngineError
from judge_service.engines import open_engine
from judge_service.engines.caching import CachingEngine
from judge_service.errors import EngineLost, ServerStartError
from judge_service.observability.logs import configure as configure_logs
from judge_service.observability.logs import flush as flush_logs
from judge_service.observability.metrics import NO_METRICS, NoMetrics, metrics_on
from judge_service.server.app import JudgeServer
from judge_service.server.lifecycle.systemd import notify_supervisor
from judge_service.settings import ServerSettings
from judge_service.store import open_store

_SAY_SECONDS = 1.0

_log = logging.getLogger("judge_service")


def run(settings: ServerSettings) -> None:
    """Serve until SIGTERM, SIGINT or, if so set, the end of standard input.

    Prints when it starts to load and when it serves, and notifies systemd of the latter. Raises the
    errors of `serve`, and UserError for an engine, a store or metrics that cannot be opened.
    """
    for constitution in settings.constitutions:  # a mistake in one is refused before the engine's
        Constitution.load(constitution)  # libraries are imported, which takes ten seconds
    metrics = metrics_on(settings.metrics_host, settings.metrics_port)
    by_caller = settings.store_scope == "caller"
    store = open_store(settings.store)
    engine = CachingEngine(open_engine(settings), store, metrics, by_caller=by_caller)
    configure_logs(settings.log_format)
    for file in settings.calibrations:
        _say(f"calibrations of {file} apply where they were fitted for this model")
    _say(f"loading {settings.model}; health is NOT_SERVING until it is warm")

    def ready(address: str) -> None:
        _say(f"serving on {address}")
        notify_supervisor("READY=1")

    async def live() -> None:
        loaded = await serve(settings, engine, metrics=metrics, ready=ready)
        if not loaded:
            _leave_now()

    asyncio.run(live())


def _leave_now() -> None:
    """End the process, whatever its threads do: one may load a model for minutes."""
    _say("stopped while the model was loading")
    os._exit(0)


def _say(line: str) -> None:
    """Print a line, after those of the log and in one piece: both may go to the same file.

    Where that is a pipe that nobody reads, the server goes on after a second.
    """
    flush_logs()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # in memory
        print(line, flush=True)
        return
    sys.stdout.flush()

    def write() -> None:
        with suppress(OSError):  # whoever read it is gone
            os.write(descriptor, f"{line}\n".encode())

    # Not the stream's own write, whose lock the end of the process would wait for.
    writing = threading.Thread(target=write, name="say", daemon=True)
    writing.start()
    writing.join(_SAY_SECONDS)


async def serve(
    settings: ServerSettings,
    engine: Engine,
    *,
    metrics: NoMetrics = NO_METRICS,
    ready: Callable[[str], None] | None = None,
) -> bool:
    """Serve with this engine until SIGTERM, SIGINT or, if so set, the end of standard input.

    `ready` is called with the address once the engine is warm. Returns whether it was loaded: if it
    was not, threads may be loading it still. Raises ServerStartError (a busy port, an engine that
    does not start), EngineLost when it dies later, ConstitutionError, and the engine's own user
    errors.
    """
    # Signals stop the server at any time, also while the engine loads.
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    if settings.exit_on_stdin_close:
        _on_stdin_close(lambda: loop.call_soon_threadsafe(stop.set))
    server = JudgeServer(settings, engine, metrics)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    await server.start()
    # Three things can happen next: the engine is loaded, it is lost, or the server is stopped.
    _log.info("listening on %s, loading %s", server.address, settings.model)
    loading = asyncio.create_task(server.load())
    stopping = asyncio.create_task(stop.wait())
    losing = asyncio.create_task(server.engine_lost.wait())
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            freeze_loaded()
            _log.info("serving on %s", server.address)
            if ready is not None:
                ready(server.address)
            await asyncio.wait({stopping, losing}, return_when=asyncio.FIRST_COMPLETED)
        else:
            _log.info("stopping while %s is loading", settings.model)
    except EngineError as error:
        raise ServerStartError(f"the engine did not start: {error}") from error
    finally:
        loaded = loading.done()
        for waiting in (loading, stopping, losing):
            waiting.cancel()
        await server.stop()
    if server.engine_lost.is_set() and not stop.is_set():
        raise EngineLost(
            "the engine died; its last lines are in the log above. Start the server again; if the "
            "engine runs out of memory, lower kv_cache_gib or max_context_tokens"
        )
    return loaded


def freeze_loaded() -> None:
    """Exclude all objects so far from garbage collection, and give back what loading left free.

    The engine's libraries are a million of them, and a full collection, which happens in the middle
    of calls, would keep everybody waiting for half a second.
    """
    give_back_freed()
    gc.freeze()


def _on_stdin_close(then: Callable[[], object]) -> None:
    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        then()

    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()
