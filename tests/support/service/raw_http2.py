"""A minimal HTTP/2 client that opens a call and never lets the server send any data."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:]
    return head + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header as an HPACK literal: not indexed, not Huffman-coded, each part under 127 bytes."""
    parts = (name.encode(), value.encode())
    return b"\0" + b"".join(bytes([len(part)]) + part for part in parts)


@asynccontextmanager
async def call_without_window(address: str, path: str, **more: str) -> AsyncIterator[None]:
    """An RPC with an empty request, accepted by the server, whose flow-control window stays 0.

    more: further request headers.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
        **more,
    }
    # The client's preface announces a window of 0 bytes; then one complete request.
    block = b"".join(literal(name, value) for name, value in headers.items())
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    writer.write(frame(SETTINGS, payload=struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)))
    writer.write(frame(HEADERS, END_HEADERS, 1, block))
    writer.write(frame(DATA, END_STREAM, 1, bytes(5)))  # one uncompressed message of length 0
    accepted = asyncio.Event()

    async def answer_frames() -> None:
        """Acknowledge SETTINGS and PING frames, so that only the window blocks the server."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind in (SETTINGS, PING) and not flags & ACK:
                    writer.write(frame(kind, ACK, payload=payload if kind == PING else b""))
                if kind == HEADERS:
                    accepted.set()
                assert kind != DATA or not payload, "the server sent data into a closed window"

    answering = asyncio.create_task(answer_frames())
    try:
        async with asyncio.timeout(120):
            await accepted.wait()
        yield
    finally:
        answering.cancel()
        writer.close()
        with suppress(asyncio.CancelledError, ConnectionError):
            await answering
