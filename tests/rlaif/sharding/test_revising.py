"""A folder of samples revised by a real server over a fake engine: lessons, and pairs as labels."""

import json
from pathlib import Path

import rlaif
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.sharding.run import Outcome
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle
from tests.support.service.thread_server import serving_in_thread


def test_lessons_and_pairs_of_shards_are_those_of_the_file(tmp_path: Path) -> None:
    rules = one_principle(tmp_path)
    # To the last prompt there are no samples in its shard's split of two: a shard of one row.
    rows = [{"prompt": f"question {n}", "response": "no" * (n + 1)} for n in range(5)]
    file = tmp_path / "s.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=tmp_path / "s", rows=2)
    engine = FakeEngine()
    with serving_in_thread(engine, constitutions=(rules,)) as (server, _):
        asked = {"server": server, "constitution": rules, "max_tokens": 8}
        whole = rlaif.revise(file, out=tmp_path / "whole", **asked)
        written = len(engine.writings)
        report = rlaif.revise_shards(tmp_path / "s", out=tmp_path / "out", **asked)
        after = len(engine.writings)
        again = rlaif.revise_shards(tmp_path / "s", out=tmp_path / "out", **asked)

        assert len(engine.writings) == after
    assert after == 2 * written
    assert report.outcomes == {Outcome.MADE: 3}
    assert again.outcomes == {Outcome.FOUND: 3}
    assert (report.counts["samples"], report.counts["lessons"]) == (5, whole.lessons)
    assert read_lessons(tmp_path / "out") == read_lessons(tmp_path / "whole" / "lessons.jsonl")
    found, expected = (
        read_preferences(path)
        for path in (tmp_path / "out" / "pairs", tmp_path / "whole" / "pairs.parquet")
    )
    assert [(pair.id, pair.prob_chosen) for pair in found] == [
        (pair.id, pair.prob_chosen) for pair in expected
    ]
    assert whole.lessons > 0


def test_shards_without_a_lesson_are_empty_and_count_why(tmp_path: Path) -> None:
    rules = one_principle(tmp_path)
    file = tmp_path / "s.jsonl"
    rows = [{"prompt": f"question {n}", "response": "much longer than what is written " * 9}
            for n in range(2)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=tmp_path / "s", rows=1)
    with serving_in_thread(FakeEngine(), constitutions=(rules,)) as (server, _):
        report = rlaif.revise_shards(
            tmp_path / "s", server=server, constitution=rules, out=tmp_path / "out"
        )

    assert (report.there, report.rows) == (2, 0)
    assert sum(report.counts["refused"].values()) == 2  # type: ignore[union-attr]
    assert len(list((tmp_path / "out" / "unrevised").iterdir())) == 2
