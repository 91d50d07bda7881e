"""The store in a real PostgreSQL: outages, crashes, refusals, schemas, and two servers on it.

What it shares with the file is in tests/judge_service/store/test_store.py, its upkeep in
test_postgres_maintenance.py. The database crashes twice
under load, with RLAIF_FULL=1 twenty times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs, Written
from judge_service.settings import ServerSettings
from judge_service.store import open_store
from judge_service.store import postgres as postgres_store
from judge_service.store import postgres_connection as postgres_database
from judge_service.store.base import StoreError, StoreUnavailable
from judge_service.store.maintenance import summarize
from judge_service.store.postgres import PostgresStore
from rlaif.cli.main import app
from tests.support.service.postgres import PASSWORD, Postgres, name

pytestmark = pytest.mark.integration

DAY = 86_400
CRASHES = 20 if os.environ.get("RLAIF_FULL") else 2


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(*logprobs: float) -> LabelLogprobs:
    return LabelLogprobs(logprobs, prompt_tokens=500, cached_tokens=0)


@contextlib.contextmanager
def stopped(postgres: Postgres) -> Iterator[None]:
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


# Outages


async def test_lost_connections_cost_no_call(postgres: Postgres, database: str) -> None:
    store = open_store(database)
    for i in range(3):
        await store.put_read(key(i), answer(-float(i)))
        assert await store.find_read(key(i)) is not None
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
            f" '{name(database)}' AND pid <> pg_backend_pid()",
            database="postgres",
        )
    assert (await store.stats()).reads == 3
    await store.close()


async def test_a_store_without_its_database_refuses_and_recovers_when_it_is_back(
    postgres: Postgres, database: str
) -> None:
    store = open_store(database)
    await store.put_read(key(1), answer(-1.0))
    with stopped(postgres):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"cannot be used.*check that it runs"):
                await store.put_read(key(2), answer(-2.0))
            with pytest.raises(StoreUnavailable):
                await store.find_read(key(1))
            with pytest.raises(StoreUnavailable):
                await store.stats()
    assert await store.find_read(key(1)) is not None
    assert await store.find_read(key(2)) is None
    await store.put_read(key(2), answer(-2.0))
    await store.close()


async def test_nothing_acknowledged_is_lost_when_the_database_crashes(
    postgres: Postgres, database: str
) -> None:
    store = open_store(database)
    kept: set[int] = set()
    refused = 0

    async def fill(start: int) -> None:
        nonlocal refused
        for i in range(start, start + 10**6):
            try:
                await store.put_read(key(i), answer(-i / 7))
                kept.add(i)
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.05)

    callers = [asyncio.create_task(fill(n * 10**6)) for n in range(16)]
    for _ in range(CRASHES):
        before = len(kept)
        while len(kept) < before + 100:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    stored = await asyncio.gather(*(store.find_read(key(i)) for i in kept))
    assert [read and read.logprobs for read in stored] == [(-i / 7,) for i in kept]
    assert refused
    await store.close()


async def test_servers_that_store_the_same_keys_in_opposite_order_do_not_deadlock(
    postgres: Postgres, database: str
) -> None:
    """PostgreSQL would break a deadlock after a second, and one of the two commits would fail."""
    stores = [open_store(database), open_store(database)]
    for statement in (
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.005); RETURN new; END'",
        "CREATE TRIGGER dawdle BEFORE INSERT ON rlaif_reads FOR EACH ROW EXECUTE FUNCTION dawdle()",
    ):
        postgres.execute(statement, database=name(database))
    await asyncio.gather(
        *(stores[0].put_read(key(i), answer(-1.0)) for i in range(100)),
        *(stores[1].put_read(key(i), answer(-2.0)) for i in reversed(range(100))),
    )
    assert (await stores[0].stats()).reads == 100
    for store in stores:
        await store.close()


async def test_waiting_for_a_locked_table_is_bounded(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "_STATEMENT_SECONDS", 1)
    store = open_store(database)
    with psycopg.connect(database.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE rlaif_reads")
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            await store.put_read(key(1), answer(-1.0))
    await store.put_read(key(1), answer(-1.0))
    await store.close()


async def test_a_server_that_dies_before_its_commit_does_not_lock_its_keys(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "_IDLE_SECONDS", 1, raising=False)
    monkeypatch.setattr(postgres_store, "_STATEMENT_SECONDS", 5)
    store = open_store(database)
    vanished = postgres_database.Database(database, statement_seconds=5)
    session = vanished.connect()
    session.execute(
        sa.text("INSERT INTO rlaif_reads VALUES (:key, :logprobs, 1, 1)"),
        {"key": key(1), "logprobs": bytes(8)},
    )
    assert await store.put_read(key(1), answer(-1.0)) == answer(-1.0)
    session.invalidate()
    vanished.close()
    await store.close()


async def test_a_commit_waits_for_the_disk_where_the_database_is_set_not_to(
    postgres: Postgres, database: str
) -> None:
    postgres.execute(
        f"ALTER DATABASE {name(database)} SET synchronous_commit = off", database="postgres"
    )
    store = PostgresStore(database)
    setting = store._database.transact(
        lambda c: c.scalar(sa.text("SELECT current_setting('synchronous_commit')"))
    )
    assert setting == "on"
    await store.close()


async def test_a_row_deleted_during_a_second_put_is_stored_again(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database)
    await store.put_read(key(1), answer(-1.0))
    select = postgres_store._select

    def delete_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        postgres.execute("DELETE FROM rlaif_reads", database=name(database))
        return select(*arguments)

    monkeypatch.setattr(postgres_store, "_select", delete_first)
    assert await store.put_read(key(1), answer(-2.0)) == answer(-2.0)
    stored = await store.find_read(key(1))
    assert stored is not None
    assert stored.logprobs == (-2.0,)
    await store.close()


async def test_a_large_table_is_counted_by_the_database_s_own_estimate(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "_COUNTED_BYTES", 0)
    store = open_store(database)
    await asyncio.gather(*(store.put_read(key(i), answer(-1.0)) for i in range(300)))
    assert (await store.stats()).reads == 0  # never analyzed
    postgres.execute("ANALYZE", database=name(database))
    assert (await store.stats()).reads == 300
    await store.close()


# Refusals


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        (PASSWORD, "wrong", "password authentication failed.*PGPASSWORD"),
        ("@127.0.0.1", "@no-host.invalid", "no-host.invalid.*can be reached"),
        ("/test_", "/other_", 'database "other_.*does not exist'),
        ("+psycopg", "", "a store's URL starts with postgresql.psycopg"),
        (PASSWORD, f"x@{PASSWORD}", "write an @ in user or password as %40"),
        ("@127.0.0.1:", "@127.0.0.1:x", "invalid store URL.*expected postgresql"),
        ("?", "?", "password among the options"),
        ("?password=", "?speed=", 'invalid connection option "speed"'),
    ],
)
def test_an_unusable_database_is_reported_before_an_engine_loads(
    database: str, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, problem: str
) -> None:
    url = f"{database}?password={PASSWORD}" if "?" in right else database
    monkeypatch.setattr("rlaif.models.catalog.resolve", lambda model: model)
    arguments = ["serve", "--model", "org/none", "--store", url.replace(right, wrong, 1)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=problem):
        raise result.exception
    assert PASSWORD not in str(result.exception) + result.output


async def test_a_newer_store_is_rejected_and_left_unchanged(
    postgres: Postgres, database: str
) -> None:
    await open_store(database).close()
    postgres.execute("UPDATE rlaif_schema SET version = 3", database=name(database))
    for use in (open_store, summarize):
        with pytest.raises(
            StoreError, match=r"schema 3 .*this one supports up to 2.*use another database"
        ):
            use(database)
    assert postgres.execute("TABLE rlaif_schema", database=name(database)) == [(3,)]


async def test_a_user_without_rights_is_rejected_and_read_and_insert_rights_are_enough(
    postgres: Postgres, database: str
) -> None:
    await open_store(database).close()
    role = name(database).replace("test_", "judge_")
    grants = {
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'": "grant this user",
        f"GRANT SELECT ON rlaif_schema TO {role}": "",
        f"GRANT SELECT, INSERT ON rlaif_reads, rlaif_writings TO {role}": "",
    }
    url = postgres.url(name(database), user=role)
    for statement, problem in grants.items():
        postgres.execute(statement, database=name(database))
        if problem:
            with pytest.raises(StoreError, match=problem):
                open_store(url)
    store = open_store(url)
    await store.put_read(key(1), answer(-1.0))
    assert await store.find_read(key(1)) is not None

    # Without the right to update, a damaged row stays, and its read is answered all the same.
    damage = "UPDATE rlaif_reads SET logprobs = '\\x00'"
    postgres.execute(damage, database=name(database))
    for _ in range(2):
        assert await store.find_read(key(1)) is None
        assert await store.put_read(key(1), answer(-2.0)) == answer(-2.0)
    postgres.execute(f"GRANT UPDATE ON rlaif_reads TO {role}", database=name(database))
    await store.put_read(key(1), answer(-2.0))
    found = await store.find_read(key(1))
    assert found is not None
    assert found.logprobs == (-2.0,)
    await store.close()


async def test_the_password_is_in_no_log_no_error_and_no_settings(
    postgres: Postgres, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy").setLevel(logging.DEBUG)
    texts = []
    try:
        store = open_store(database)
        await store.put_writing(key(1), Written("canary-of-text", (1,), True, 1, 0))
        with stopped(postgres), pytest.raises(StoreUnavailable) as error:
            await store.put_read(key(1), answer(-1.0))
        texts.append(repr(error.value))
        await store.close()
    finally:
        logging.getLogger("sqlalchemy").setLevel(logging.WARNING)
    serve = ["serve", "--model", "m", "--print-config", "--store", database]
    texts += [
        CliRunner().invoke(app, serve).output,
        repr(ServerSettings(model="m", store=database)),
    ]
    texts += [CliRunner().invoke(app, ["store", "stats", "--store", database]).output]
    assert all(
        f"rlaif@127.0.0.1:{postgres.port}" in text for text in (texts[0], texts[1], texts[3])
    )
    everything = "\n".join((*texts, caplog.text))
    assert "rlaif_writings" in caplog.text  # SQLAlchemy's own log was captured
    assert PASSWORD not in everything
    assert "canary-of-text" not in everything


# Schemas


async def test_many_servers_that_start_at_once_on_an_empty_database_all_do(database: str) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(open_store, database) for _ in range(8)))
    await asyncio.gather(*(store.put_read(key(1), answer(-1.0)) for store in stores))
    assert (await stores[0].stats()).reads == 1
    for store in stores:
        await store.close()


async def test_a_store_of_an_older_schema_is_migrated_completely_or_not_at_all(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(database)
    await store.put_read(key(1), answer(-1.0))
    await store.close()
    add = "ALTER TABLE rlaif_reads ADD COLUMN label text NOT NULL DEFAULT ''"
    monkeypatch.setattr(postgres_database, "SCHEMA_VERSION", 3)
    for steps in ((add, "ALTER TABLE nothing ADD COLUMN label text"), (add,)):
        known = {**postgres_database._MIGRATIONS, 2: steps}
        monkeypatch.setattr(postgres_database, "_MIGRATIONS", known)
        if len(steps) == 2:
            with pytest.raises(StoreError):
                open_store(database)
            assert postgres.execute("TABLE rlaif_schema", database=name(database)) == [(2,)]
    both = await asyncio.gather(*(asyncio.to_thread(open_store, database) for _ in range(2)))
    assert await both[0].find_read(key(1)) == LabelLogprobs((-1.0,), 500, 0, stored=True)
    for store in both:
        await store.close()
    assert postgres.execute("TABLE rlaif_schema", database=name(database)) == [(3,)]


# Two servers
