"""A TCP relay that counts the bytes that pass it, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_BLOCK = 2**16


class CountingRelay:
    """address: HOST:PORT that leads to the target. count: bytes so far, of both directions."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.count = 0
        self._host, port = target.rsplit(":", 1)
        self._port = int(port)

    async def serve(self, ready: threading.Event, end: asyncio.Event) -> None:
        """Relay until `end` is set."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await end.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.read(_BLOCK):
                self.count += len(block)
                writer.write(block)
                await writer.drain()
        except ConnectionError:  # either end was killed or has closed
            pass
        finally:
            writer.close()


@contextmanager
def relayed(target: str) -> Iterator[CountingRelay]:
    """A relay to HOST:PORT, until the block ends."""
    relay, ready, ends = CountingRelay(target), threading.Event(), []

    async def live() -> None:
        end = asyncio.Event()
        ends.append((asyncio.get_running_loop(), end))
        await relay.serve(ready, end)

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the relay did not start; its traceback is above")
    try:
        yield relay
    finally:
        loop, end = ends[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
