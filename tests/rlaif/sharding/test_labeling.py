"""A folder of samples labeled by a real server with a planted judge: the rows of a single run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlaif
from benchmarks.planted.served import serving
from constitution import Constitution
from constitution.errors import UserError
from judge_service.client.sync import JudgeClient
from judge_service.types import Unjudged, UnjudgedReason, Usage
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference
from rlaif.labels.statistics import read_unjudged
from rlaif.sharding import judge as judges
from rlaif.sharding.labeling import LabelShards
from rlaif.sharding.run import Outcome, make_shards
from tests.support.planted.judges import CONSTITUTION, judge_file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(judge_file(tmp_path_factory.mktemp("judge")), CONSTITUTION) as address:
        yield address


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Twelve prompts with two responses each; one has two equal ones, in a shard of its own."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"question {n}", "responses": [f"In 19{n + 10}. Please ask.", "No. I. Cannot."]}
        for n in range(12)
    ]
    rows.append({"prompt": "the same twice", "responses": ["a", "a"]})
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(file, out=tmp_path / "samples", rows=8)
    return file


def content(rows: list[Preference]) -> list[str]:
    """All of labels but their receipts, which count reads and name stored ones."""
    return sorted(row.model_dump_json(exclude={"receipt"}) for row in rows)


def test_labels_of_shards_are_those_of_the_file(samples: Path, server: str) -> None:
    folder, out = samples.with_suffix(""), samples.parent
    whole = rlaif.label(samples, server=server, out=out / "whole")

    report = rlaif.label_shards(
        folder, server=server, constitution=CONSTITUTION, out=out / "labels"
    )

    assert report.outcomes == {Outcome.MADE: 4}
    found = read_preferences(out / "labels")
    assert content(found) == content(read_preferences(out / "whole" / "preferences.parquet"))
    counts = report.counts
    assert (counts["pairs"], counts["judged"], counts["identical"]) == (12, 12, 1)
    assert counts["sum_prob_chosen"] == pytest.approx(12 * (whole.mean_prob_chosen or 0))
    assert (out / "labels" / "constitution.yaml").is_file()
    assert not (out / "labels" / "logs").exists()


def test_parts_that_are_run_again_read_nothing_twice(samples: Path, server: str) -> None:
    folder, out = samples.with_suffix(""), samples.parent / "labels"
    first = rlaif.label_shards(folder, server=server, out=out, part="0/2")
    rlaif.label_shards(folder, server=server, out=out, part="1/2")
    again = rlaif.label_shards(folder, server=server, out=out)

    assert first.outcomes == {Outcome.MADE: 2}
    assert again.outcomes == {Outcome.FOUND: 4}


def test_another_constitution_into_the_same_folder_is_refused(samples: Path, server: str) -> None:
    folder, out = samples.with_suffix(""), samples.parent / "labels"
    rlaif.label_shards(folder, server=server, out=out)

    with pytest.raises(UserError, match="sample_principles: None then, 1 now"):
        rlaif.label_shards(folder, server=server, out=out, sample_principles=1)


class Flaky:
    """The real client of a real server, whose first answers are lost ones."""

    def __init__(self, client: JudgeClient, lost: int) -> None:
        self._client, self.lost = client, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def stream(self, comparisons: Any, constitution: Any, options: Any) -> Iterator[Any]:
        for id, answer in self._client.stream(comparisons, constitution, options):
            self.lost -= 1
            if self.lost >= 0:
                yield id, Unjudged(UnjudgedReason.ENGINE_FAILED, "lost", Usage())
            else:
                yield id, answer


@pytest.mark.parametrize(("lost", "failed"), [(1, 0), (2, 1)])
def test_a_passing_failure_is_asked_once_more_and_then_fails_the_shard(
    samples: Path, server: str, monkeypatch: pytest.MonkeyPatch, lost: int, failed: int
) -> None:
    opened = judges.judge_client

    def flaky(*args: Any, **kwargs: Any) -> Any:
        class OpenedFlaky:
            def __enter__(self) -> Flaky:
                self.of = opened(*args, **kwargs)
                return Flaky(self.of.__enter__(), lost)

            def __exit__(self, *error: Any) -> None:
                self.of.__exit__(*error)

        return OpenedFlaky()

    monkeypatch.setattr(judges, "judge_client", flaky)
    # One pair a shard, so that what is lost first and second is of the same one.
    folder = samples.parent / "single"
    rlaif.split_shards(samples, out=folder, rows=1)

    report = make_shards(folder, samples.parent / "labels", LabelShards(server=server))

    assert len(report.failed) == failed
    if failed:
        assert "1 of 1 pairs got no answer (engine_failed 1)" in report.failed["00000.parquet"]
    monkeypatch.undo()
    again = make_shards(folder, samples.parent / "labels", LabelShards(server=server))
    assert (again.there, again.failed) == (13, {})


def test_pairs_without_a_judgment_are_listed_beside_their_shard(samples: Path, server: str) -> None:
    long = samples.parent / "long.jsonl"
    rows = [{"prompt": f"p{n}", "responses": ["x " * 60_000, "In 1910."]} for n in range(2)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rlaif.split_shards(long, out=samples.parent / "long", rows=2)

    report = rlaif.label_shards(samples.parent / "long", server=server, out=samples.parent / "out")

    assert (report.there, report.rows) == (2, 0)
    assert read_unjudged(samples.parent / "out") == {"too_long": 2}
    assert report.counts["unjudged_by_reason"] == {"too_long": 2}


def test_a_constitution_in_memory_is_refused(samples: Path, server: str) -> None:
    rules: Any = Constitution.load(str(CONSTITUTION))
    with pytest.raises(UserError, match="invalid constitution: Constitution; give a name"):
        rlaif.label_shards(samples.with_suffix(""), server=server, constitution=rules)


def test_a_file_is_refused_with_the_command_that_splits_it(samples: Path, server: str) -> None:
    with pytest.raises(UserError, match="rlaif shards split"):
        rlaif.label_shards(samples, server=server, out=samples.parent / "labels", part="0/2")
