"""Thousands of calls and streams cancelled at random moments: the engine is free at once.

Calls of every judging RPC and streams with items in flight are cancelled, abandoned, or run into
their deadline, while others go on. 2000 by default, 20 000 with RLAIF_FULL=1. After the last one
whatever the engine begins would take an hour, so it is idle only because nothing was left in it.
Then no task, slot or quota is leaked: the server admits as many calls at a time as it ever did, and
a token as many as it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from judge_service.engines.caching import CachingEngine
from judge_service.security.tokens import Token, digest_of, to_entry
from judge_service.server.app import JudgeServer
from judge_service.store import open_store
from judge_service.v1 import judge_pb2 as pb
from judge_service.v1 import judge_pb2_grpc as pb_grpc
from tests.support.service.serving import CHAT, one_principle, settings
from tests.support.service.steady_engine import SteadyEngine
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

CALLS = 20_000 if os.environ.get("RLAIF_FULL") == "1" else 2_000
AT_ONCE = 64
MOST = 2 * AT_ONCE  # concurrent calls of the token: cancelled ones end a little later
MINE = (("authorization", "Bearer storm"),)
HOUR = 3600.0  # longer than any test waits


@asynccontextmanager
async def serving(engine: SteadyEngine, folder: Path) -> AsyncIterator[JudgeServer]:
    tokens = folder / "tokens.yaml"
    token = Token(
        name="storm",
        sha256=digest_of("storm"),
        scopes=frozenset({"judge", "read"}),
        max_concurrent=MOST,
    )
    tokens.write_text(to_entry(token))
    how = {"constitutions": [one_principle(folder)], "tokens": tokens, "max_stream_in_flight": 8}
    server = JudgeServer(settings(**how), CachingEngine(engine, open_store(None)))
    await server.start()
    await server.load()
    try:
        yield server
    finally:
        await server.stop()


class CancelStorm:
    """Calls that are cancelled after a random moment, each with a new prompt."""

    def __init__(self, channel: Any) -> None:
        self.ended: Counter[str] = Counter()
        self._judge = pb_grpc.JudgeServiceStub(channel)
        self._dice = random.Random()
        self._begun = 0

    async def rage(self, calls: int) -> None:
        ways: list[Callable[[], Awaitable[None]]] = [self._cancelled, self._late, self._stream]

        async def work() -> None:
            while self._begun < calls:
                await self._dice.choice(ways)()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())

    def call(self, **how: Any) -> Any:
        """A call of one of the judging RPCs."""
        judge, new = self._judge, f"reply {self._number()}"
        rank = pb.RankCandidatesRequest(**CHAT, candidates=[new, "b", "c"])
        score = pb.ScoreCandidateRequest(**CHAT, response=new)
        critique = pb.CritiqueCandidateRequest(**CHAT, response=new)
        choices = [
            lambda: self.compare(**how),
            lambda: judge.RankCandidates(rank, metadata=MINE, **how),
            lambda: judge.ScoreCandidate(score, metadata=MINE, **how),
            lambda: judge.CritiqueCandidate(critique, metadata=MINE, **how),
        ]
        return self._dice.choice(choices)()

    def compare(self, **how: Any) -> Any:
        """A call that costs the engine two reads."""
        return self._judge.ComparePair(self._pair(), metadata=MINE, **how)

    def _number(self) -> str:
        self._begun += 1
        return f"{self._begun // 1000} {self._begun % 1000}"

    def _pair(self) -> pb.ComparePairRequest:
        return pb.ComparePairRequest(**CHAT, response_a=self._number(), response_b="bb")

    async def _cancelled(self) -> None:
        call = self.call()
        await asyncio.sleep(self._dice.expovariate(50))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        self.ended["OK" if call.done() and not call.cancelled() else "CANCELLED"] += 1

    async def _late(self) -> None:
        try:
            await self.call(timeout=self._dice.expovariate(50))
            self.ended["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.ended[error.code().name] += 1

    async def _stream(self) -> None:
        stream = self._judge.StreamJudgments(metadata=MINE)
        with contextlib.suppress(asyncio.CancelledError):
            await stream.read()
            for _ in range(self._dice.randrange(8)):
                pair = self._pair()
                await stream.write(pb.StreamJudgmentsRequest(id=pair.response_a, comparison=pair))
            await asyncio.sleep(self._dice.expovariate(50))
        stream.cancel()
        self.ended["STREAM"] += 1


async def test_a_storm_of_cancelled_calls_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = SteadyEngine(slots=8, seconds=0.02)
    async with (
        serving(engine, tmp_path) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        storm = CancelStorm(channel)
        await storm.call()
        calm = len(asyncio.all_tasks())
        await storm.rage(CALLS)
        engine.seconds = HOUR
        await until(lambda: engine.running + engine.waiting == 0)
        engine.seconds = 0.02
        assert storm.ended["CANCELLED"] > CALLS / 20, storm.ended
        assert storm.ended["DEADLINE_EXCEEDED"] > CALLS / 20, storm.ended
        assert storm.ended["STREAM"] > CALLS / 20, storm.ended
        assert storm.ended.keys() <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "STREAM"}
        await until(lambda: len(asyncio.all_tasks()) <= calm + 1)
        await assert_all_places_are_free(storm, engine)
        health = health_pb2_grpc.HealthStub(channel)
        response = await health.Check(health_pb2.HealthCheckRequest(), timeout=120)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def assert_all_places_are_free(storm: CancelStorm, engine: SteadyEngine) -> None:
    """The token gets all of its concurrent calls and no more: no slot was leaked or gained."""
    engine.seconds = HOUR
    held = [storm.compare() for _ in range(MOST)]
    await until(lambda: engine.running + engine.waiting == 2 * MOST)
    with pytest.raises(grpc.aio.AioRpcError, match="concurrent calls"):
        await storm.compare(timeout=120)
    for call in held:
        call.cancel()
    await until(lambda: engine.running + engine.waiting == 0)
    engine.seconds = 0
    await storm.call()
