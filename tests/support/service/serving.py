"""A judge server over a FakeEngine on a real socket, for tests of server and client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from constitution.schema import Message
from judge_service.server.app import JudgeServer
from judge_service.server.deadlines import LatencyWindow
from judge_service.settings import ServerSettings
from judge_service.types import Comparison
from judge_service.v1 import judge_pb2 as pb
from tests.support.fakes import FakeEngine

CHAT = {"conversation": [pb.Message(role=pb.ROLE_USER, content="Name a fruit")]}
"""Request fields that most tests send: a conversation of one question."""

ONE_PRINCIPLE = """
name: brief
version: 1.0.0
traits: {helpful: {}}
principles:
  - id: says-more
    trait: helpful
    compare: Prefer the reply that says more.
    critique: What is missing?
    revise: Add it.
"""


def one_principle(folder: Path) -> str:
    """The path of a constitution that costs one read per order."""
    path = folder / "brief.yaml"
    path.write_text(ONE_PRINCIPLE, encoding="utf-8")
    return str(path)


def settings(**values: Any) -> ServerSettings:
    common = {"model": "fake", "port": 0, "grace_seconds": 0.2, "constitutions": ("hhh",)}
    return ServerSettings(**{**common, **values})


@asynccontextmanager
async def serving(engine: FakeEngine, **values: Any) -> AsyncIterator[JudgeServer]:
    """A running server with a loaded engine; its address is in `.address`."""
    server = JudgeServer(settings(**values), engine)
    await server.start()
    await server.load()
    try:
        yield server
    finally:
        await server.stop()


class _AsBefore(LatencyWindow):
    """Recent calls of every kind took this long, seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def quickest(self, kind: Hashable, concurrent: int) -> float:
        return self._seconds


def expect_calls_to_take(server: JudgeServer, seconds: float) -> None:
    """As if the server had answered calls of every kind lately that took this long."""
    server._guard._latencies = _AsBefore(seconds)


def comparison(id: str, response_a: str = "short", response_b: str = "rather longer") -> Comparison:
    return Comparison(id, (Message(role="user", content=f"question {id}"),), response_a, response_b)
