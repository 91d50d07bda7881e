"""`rlaif store stats|gc|export`: ordinary use by an operator, and mistakes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from constitution.errors import UserError
from judge_service.engine import LabelLogprobs, Written
from judge_service.store import open_store
from rlaif.cli.main import app
from rlaif.cli.service.store import parse_age, parse_size, size_text


def rlaif(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, arguments)])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """100 reads, half of them forty days old, and one writing."""
    path = tmp_path / "reads.sqlite"
    old = int(time.time()) - 40 * 86400  # before the reads, so that none is a second too young

    async def fill() -> None:
        kept = open_store(path)
        for i in range(100):
            await kept.put_read(i.to_bytes(32, "big"), LabelLogprobs((-0.1, -2.5), 7, 0))
        await kept.put_writing(b"w" * 32, Written("Sei höflich.", (1, 2), True, 7, 0))
        await kept.close()

    asyncio.run(fill())
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE reads SET created = ? WHERE key < ?", (old, (50).to_bytes(32, "big")))
    return path


def test_stats_report_count_size_and_age(store: Path) -> None:
    output = rlaif("stats", "--store", store).output
    assert f"{store}: schema 3" in output
    assert "reads     100, about" in output
    assert "writings  1, about" in output
    stats = json.loads(rlaif("stats", "--store", store, "--json").output)
    assert (stats["reads"]["rows"], stats["schema"], stats["place"]) == (100, 3, str(store))
    assert stats["reads"]["newest"] - stats["reads"]["oldest"] >= 40 * 86400


def test_the_store_is_the_server_s_where_none_is_named(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAIF_STORE", str(store))
    assert str(store) in rlaif("stats").output
    monkeypatch.delenv("RLAIF_STORE")
    monkeypatch.setenv("RLAIF_CACHE", str(store.parent))
    assert str(store) in rlaif("stats").output


def test_gc_reports_what_it_would_delete_and_then_deletes_it(store: Path) -> None:
    would = rlaif("gc", "--older-than", "30d", "--dry-run", "--store", store).output
    assert "would delete 50 reads and 0 writings" in would
    assert "100" in rlaif("stats", "--store", store).output
    assert (
        "deleted 50 reads and 0 writings"
        in rlaif("gc", "--older-than", "30d", "--store", store).output
    )
    assert "deleted 0 reads" in rlaif("gc", "--older-than", "30d", "--store", store).output


def test_export_writes_numbers_and_text_only_on_request(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "reads.jsonl"
    assert rlaif("export", "--store", store, "--out", out).exit_code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 100
    assert lines[3]["logprobs"] == [-0.1, -2.5]
    assert "Sei" not in out.read_text()
    rlaif("export", "--store", store, "--out", out, "--writings")
    last = json.loads(out.read_text().splitlines()[-1])
    assert (last["kind"], last["text"]) == ("writing", "Sei höflich.")


def test_an_export_that_fails_leaves_the_file_before_it(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "reads.jsonl"
    out.write_text("before\n")
    with closing(sqlite3.connect(store)) as file, file:
        file.execute("UPDATE reads SET logprobs = x'00' WHERE key = ?", ((99).to_bytes(32, "big"),))
    result = rlaif("export", "--store", store, "--out", out)
    assert isinstance(result.exception, UserError)
    assert "damaged" in str(result.exception)
    assert out.read_text() == "before\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gc"], "--older-than 30d, --max-bytes 1GiB or both"),
        (["gc", "--older-than", "30"], "invalid --older-than '30'"),
        (["gc", "--older-than", "-3d"], "invalid --older-than '-3d'"),
        (["gc", "--max-bytes", "1 gb"], "invalid --max-bytes '1 gb'.*GB"),
        (["export", "--out", "reads.csv"], "--out must end in .jsonl"),
        (["stats", "--store", "/nowhere/reads.sqlite"], "no store found"),
    ],
)
def test_a_mistake_is_reported_with_the_remedy(
    store: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    monkeypatch.setenv("RLAIF_STORE", str(store))
    result = rlaif(*arguments)
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=problem):
        raise result.exception
    assert len(json.loads(rlaif("stats", "--json").output)) == 6


def test_ages_and_sizes_are_read_as_they_are_written() -> None:
    assert [parse_age(age) for age in ("90s", "2m", "1.5h", "30d", "1w")] == [
        90, 120, 5400, 30 * 86400, 7 * 86400,
    ]  # fmt: skip
    assert [parse_size(size) for size in ("12B", "1kB", "500MB", "1GiB", "2 TB")] == [
        12, 1000, 5 * 10**8, 2**30, 2 * 10**12,
    ]  # fmt: skip
    assert [size_text(size) for size in (0, 999, 1500, 2.5e9, 4e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 GB", "4.0 TB",
    ]  # fmt: skip
