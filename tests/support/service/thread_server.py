"""A judge server on a real socket in a thread of this process, over a scripted engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from judge_service.engine import Engine
from judge_service.server.app import JudgeServer
from tests.support.service.serving import settings


@contextmanager
def serving_in_thread(engine: Engine, **values: Any) -> Iterator[tuple[str, threading.Event]]:
    """The server's HOST:PORT, and an event that ends it before the block does."""
    ready, stop = threading.Event(), threading.Event()
    address: list[str] = []

    async def live() -> None:
        server = JudgeServer(settings(**values), engine)
        await server.start()
        await server.load()
        address.append(server.address)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert ready.wait(120), "the server did not start"
        yield address[0], stop
    finally:
        stop.set()
        thread.join(120)
