"""A planted judge served over a real socket by a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judge_service.engines import open_engine
from judge_service.planted.file import PREFIX
from judge_service.server.app import JudgeServer
from judge_service.settings import ServerSettings

START_TIMEOUT_S = 60.0


@contextmanager
def serving(judge: Path, constitution: Path) -> Iterator[str]:
    """The HOST:PORT of a server with this planted judge and constitution, until the block ends."""
    settings = ServerSettings(
        model=f"{PREFIX}{judge}",
        engine="planted",
        port=0,
        constitutions=(str(constitution),),
        grace_seconds=0.2,
    )
    address: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def live() -> None:
        server = JudgeServer(settings, open_engine(settings))
        await server.start()
        await server.load()
        address.append(server.address)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    if not ready.wait(START_TIMEOUT_S):
        raise RuntimeError("the planted judge did not start; its traceback is above")
    try:
        yield address[0]
    finally:
        stop.set()
        thread.join(START_TIMEOUT_S)
