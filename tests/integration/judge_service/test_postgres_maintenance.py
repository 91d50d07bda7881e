"""`rlaif store stats|gc|export` on a real PostgreSQL, while servers run."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge_service.engine import LabelLogprobs, Written
from judge_service.store import open_store
from judge_service.store.base import StoreError
from judge_service.store.maintenance import rows, summarize, sweep
from rlaif.cli.main import app
from tests.support.service.postgres import PASSWORD, Postgres, name

pytestmark = pytest.mark.integration

DAY = 86_400


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def answer(*logprobs: float) -> LabelLogprobs:
    return LabelLogprobs(logprobs, prompt_tokens=500, cached_tokens=0)


async def aged(postgres: Postgres, database: str, days: list[int]) -> None:
    """A store of reads with these ages, days."""
    store = open_store(database)
    await asyncio.gather(*(store.put_read(key(i), answer(-float(i))) for i in range(len(days))))
    await store.close()
    cases = " ".join(f"WHEN '\\x{key(i).hex()}' THEN {d * DAY}" for i, d in enumerate(days))
    ages = f"UPDATE rlaif_reads SET created = created - CASE key {cases} END"
    postgres.execute(ages, database=name(database))


async def test_old_rows_are_deleted_and_young_ones_stay(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judge_service.store.postgres_maintenance._STEP", 7)
    await aged(postgres, database, [40 if i % 4 else 1 for i in range(200)])
    summary = summarize(database)
    assert (summary.schema, summary.reads.rows, summary.writings.rows) == (2, 200, 0)
    assert summary.reads.oldest is not None
    assert abs(summary.reads.oldest + 40 * DAY - time.time()) < 600
    foreseen = sweep(database, older_than=30 * DAY, dry_run=True)
    assert summarize(database).reads.rows == 200
    looked_at: list[int] = []
    assert sweep(database, older_than=30 * DAY, progress=looked_at.append) == foreseen
    assert (foreseen.reads, looked_at[0], looked_at[-1]) == (150, 7, 200)
    assert {row["key"] for row in rows(database, writings=True)} == {
        key(i).hex() for i in range(0, 200, 4)
    }


async def test_a_limit_on_bytes_keeps_the_youngest_rows_and_is_met_by_one_sweep(
    postgres: Postgres, database: str
) -> None:
    await aged(postgres, database, list(range(200)))
    whole = sweep(database, max_bytes=10**9)
    assert (whole.reads, whole.bytes_after) == (0, whole.bytes_before)
    swept = sweep(database, max_bytes=whole.bytes_before // 2)
    assert (swept.reads, swept.bytes_after) == (100, whole.bytes_before // 2)
    assert sweep(database, max_bytes=whole.bytes_before // 2).reads == 0
    assert {row["key"] for row in rows(database, writings=True)} == {
        key(i).hex() for i in range(100)
    }


async def test_a_server_keeps_serving_while_the_store_is_swept(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judge_service.store.postgres_maintenance._STEP", 20)
    await aged(postgres, database, [40] * 400)
    store = open_store(database)
    sweeps = [asyncio.create_task(asyncio.to_thread(sweep, database, older_than=DAY)) for _ in "ab"]
    mine = 10**6
    while not all(task.done() for task in sweeps):
        again = await store.put_read(key(mine % 400), answer(-1.0))  # perhaps deleted just now
        assert again.logprobs in ((-1.0,), (-float(mine % 400),))
        await store.put_read(key(mine), answer(-1.0))
        assert await store.find_read(key(mine)) is not None
        mine += 1
    await asyncio.gather(*sweeps)
    await store.close()
    assert mine > 10**6


async def test_the_commands_take_a_url(postgres: Postgres, database: str, tmp_path: Path) -> None:
    store = ["--store", database]
    with pytest.raises(StoreError, match="no store found"):
        raise CliRunner().invoke(app, ["store", "stats", *store]).exception or AssertionError
    assert postgres.execute("SELECT to_regclass('rlaif_schema')", database=name(database)) == [
        (None,)
    ]
    await aged(postgres, database, [40] * 50 + [0] * 50)
    kept = open_store(database)
    await kept.put_writing(b"w" * 32, Written("Sei höflich.", (1, 2), True, 7, 0))
    await kept.close()
    run = CliRunner().invoke
    stats = json.loads(run(app, ["store", "stats", "--json", *store]).output)
    assert (stats["reads"]["rows"], stats["place"]) == (100, database.replace(f":{PASSWORD}", ""))
    out = tmp_path / "reads.jsonl"
    assert run(app, ["store", "export", "--writings", "--out", str(out), *store]).exit_code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["logprobs"][0] for line in lines[:-1]) == [
        -float(i) for i in range(99, -1, -1)
    ]
    assert (lines[-1]["kind"], lines[-1]["text"]) == ("writing", "Sei höflich.")
    swept = run(app, ["store", "gc", "--older-than", "30d", *store]).output
    assert "deleted 50 reads and 0 writings" in swept
    assert PASSWORD not in swept
