"""Judge servers on a store in PostgreSQL: shared reads, and a database that is down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from judge_service.client.resumable_stream import ResumableStream
from judge_service.client.sync import AsyncJudgeClient
from judge_service.engines.caching import CachingEngine
from judge_service.errors import JudgeUnavailable
from judge_service.observability.metrics import ServerMetrics
from judge_service.store import open_store
from judge_service.types import Judgment, Unjudged
from tests.integration.judge_service.test_postgres import stopped
from tests.support.fakes import FakeEngine
from tests.support.service.postgres import Postgres, name
from tests.support.service.serving import comparison, one_principle, serving
from tests.support.waiting import until

pytestmark = pytest.mark.integration


async def answers(client: AsyncJudgeClient, count: int) -> dict[str, Judgment | Unjudged]:
    items = [comparison(str(i)) for i in range(count)]
    return {id: judged async for id, judged in client.stream(items)}


async def test_one_server_answers_from_reads_stored_by_another(
    database: str, tmp_path: Path
) -> None:
    constitutions = [one_principle(tmp_path)]
    engines = [FakeEngine(), FakeEngine()]
    first, second = (CachingEngine(engine, open_store(database)) for engine in engines)
    outcomes = []
    async with (
        serving(first, constitutions=constitutions) as one,
        serving(second, constitutions=constitutions) as two,
    ):
        for server in (one, two):
            async with AsyncJudgeClient(server.address) as client:
                outcomes.append(await answers(client, 20))
    assert [len(engine.prompts) for engine in engines] == [40, 0]
    for id, mine in outcomes[0].items():
        theirs = outcomes[1][id]
        assert isinstance(mine, Judgment)
        assert isinstance(theirs, Judgment)
        assert (theirs.usage.reads, theirs.usage.stored_reads) == (0, 2)
        assert theirs.prob_a == mine.prob_a


async def test_a_server_whose_database_is_down_is_unavailable_and_names_no_host(
    postgres: Postgres, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, broken = [], ResumableStream.broken

    def counted(stream: ResumableStream, error: Any) -> float:
        refusals.append(error)
        return broken(stream, error)

    monkeypatch.setattr(ResumableStream, "broken", counted)
    engine = CachingEngine(FakeEngine(), open_store(database), ServerMetrics())
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        with stopped(postgres):
            with pytest.raises(
                JudgeUnavailable, match="the store of reads does not answer"
            ) as error:
                await client.compare("Name a fruit", "Fig", "Date, of course")
            assert "127.0.0.1:" + str(postgres.port) not in str(error.value)
            stream = asyncio.create_task(answers(client, 5))
            await until(lambda: refusals)
            assert not stream.done()
        assert len(await stream) == 5  # the stream waited for the database


async def test_a_server_whose_tables_are_not_its_own_is_unavailable_and_logs_it_once(
    postgres: Postgres, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = CachingEngine(FakeEngine(), open_store(database))
    postgres.execute(
        "ALTER TABLE rlaif_reads RENAME COLUMN logprobs TO canary", database=name(database)
    )
    async with (
        serving(engine, constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address) as client,
    ):
        for _ in range(2):
            with pytest.raises(JudgeUnavailable) as error:
                await client.compare("Name a fruit", "Fig", "Date, of course")
            assert "rlaif_reads" not in str(error.value)
    messages = [r.getMessage() for r in caplog.records if "store" in r.getMessage()]
    assert len(messages) == 1
    assert "use another database" in messages[0]
