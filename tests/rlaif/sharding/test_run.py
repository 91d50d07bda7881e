"""Shards made one after another: found, locked, set aside, counted; by a job that copies."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from constitution.errors import UserError
from rlaif.data.files import RecordError
from rlaif.data.prompts import read_prompts
from rlaif.data.records import Prompt, write_parquet
from rlaif.data.shards.folder import Holds
from rlaif.data.shards.parquet import prompt_schema
from rlaif.data.shards.split import split
from rlaif.sharding.jobs import Made, added
from rlaif.sharding.part import Part
from rlaif.sharding.run import WORK, Outcome, look, make_shards

POISON = "poison"


@dataclass
class CopyJob:
    """Copies prompts in upper case; fails on shards with a prompt POISON."""

    takes: ClassVar[Holds] = "prompts"
    gives: ClassVar[Holds] = "prompts"

    suffix: str = ""
    made: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"suffix": self.suffix}

    @contextmanager
    def opened(self, out: Path) -> Iterator["CopyJob"]:
        yield self

    def make(self, shard: Path, folder: Path) -> Made:
        self.made.append(shard.name)
        prompts = list(read_prompts(shard).prompts)
        if any(prompt.id == POISON for prompt in prompts):
            raise UserError("a prompt that kills")
        rows = (_shouted(prompt, self.suffix).model_dump() for prompt in prompts)
        write_parquet(folder / "made.parquet", rows, prompt_schema())
        (folder / "aside.jsonl").write_text("{}\n")
        beside = {"asides": folder / "aside.jsonl"}
        return Made(folder / "made.parquet", len(prompts), {"copied": len(prompts)}, beside)


def _shouted(prompt: Prompt, suffix: str) -> Prompt:
    return prompt.model_copy(update={"topic": prompt.id.upper() + suffix})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path, [f"q{n}" for n in range(10)])


def folder_of(tmp_path: Path, ids: list[str]) -> Path:
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "p.jsonl"
    file.write_text(
        "".join(f'{{"prompt": "{id}", "id": "{id}", "split": "train"}}\n' for id in ids)
    )
    split([file], tmp_path / "p", 2)
    return tmp_path / "p"


def test_every_shard_is_made_and_counted(source: Path, tmp_path: Path) -> None:
    report = make_shards(source, tmp_path / "out", CopyJob())

    assert report.outcomes == {Outcome.MADE: 5}
    assert (report.there, report.rows, report.counts) == (5, 10, {"copied": 10})
    assert [p.topic for p in read_prompts(tmp_path / "out").prompts] == [f"Q{n}" for n in range(10)]
    assert sorted(f.name for f in (tmp_path / "out" / "asides").iterdir())[0] == "00000.jsonl"
    assert not (tmp_path / "out" / WORK).exists()


def test_parts_make_their_own_and_nothing_is_made_twice(source: Path, tmp_path: Path) -> None:
    job = CopyJob()
    first = make_shards(source, tmp_path / "out", job, Part(0, 2))
    second = make_shards(source, tmp_path / "out", job, Part(1, 2))
    again = make_shards(source, tmp_path / "out", job)

    assert (first.there, second.there) == (3, 5)
    assert again.outcomes == {Outcome.FOUND: 5}
    assert sorted(job.made) == sorted(set(job.made))


def test_a_shard_that_another_process_makes_is_left_to_it(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / WORK / "00001"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        report = make_shards(source, tmp_path / "out", CopyJob())

    assert report.outcomes == {Outcome.MADE: 4, Outcome.BUSY: 1}
    assert make_shards(source, tmp_path / "out", CopyJob()).there == 5


def test_what_a_process_left_that_was_killed_after_naming_its_shard_is_tidied(
    source: Path, tmp_path: Path
) -> None:
    make_shards(source, tmp_path / "out", CopyJob())
    (tmp_path / "out" / WORK / "00001").mkdir(parents=True)
    (tmp_path / "out" / WORK / "00001" / "made.parquet").touch()

    make_shards(source, tmp_path / "out", CopyJob())

    assert not (tmp_path / "out" / WORK).exists()


def test_a_source_that_is_still_being_made_is_waited_for(source: Path, tmp_path: Path) -> None:
    late = (source / "00002.parquet").rename(tmp_path / "late")
    report = make_shards(source, tmp_path / "out", CopyJob())
    late.rename(source / "00002.parquet")

    assert report.outcomes == {Outcome.MADE: 4, Outcome.WAITING: 1}
    assert make_shards(source, tmp_path / "out", CopyJob()).there == 5


def test_a_poison_shard_is_set_aside_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path, ["a", "b", POISON, "c", "d"])

    report = make_shards(source, tmp_path / "out", CopyJob())

    assert report.failed == {"00001.parquet": "a prompt that kills"}
    assert report.outcomes == {Outcome.MADE: 2}
    assert "shard 00001.parquet: a prompt that kills" in capsys.readouterr().err


def test_several_failures_in_a_row_stop_the_work(tmp_path: Path) -> None:
    source = folder_of(tmp_path, [POISON, *(f"{POISON}{n}" for n in range(9))])

    class FullDiskJob(CopyJob):
        def make(self, shard: Path, folder: Path) -> Made:
            self.made.append(shard.name)
            raise UserError("the disk is full")

    job = FullDiskJob()
    with pytest.raises(UserError, match="the disk is full"):
        make_shards(source, tmp_path / "out", job)
    assert len(job.made) == 3


def test_another_setting_into_the_same_folder_is_refused(source: Path, tmp_path: Path) -> None:
    make_shards(source, tmp_path / "out", CopyJob())

    with pytest.raises(RecordError, match="was made otherwise: suffix:  then, ! now"):
        make_shards(source, tmp_path / "out", CopyJob("!"))


def test_a_shard_of_other_rows_is_not_taken_for_made(source: Path, tmp_path: Path) -> None:
    make_shards(source, tmp_path / "out", CopyJob())
    changed = folder_of(tmp_path / "changed", [f"r{n}" for n in range(10)])
    (changed / "00003.parquet").replace(source / "00003.parquet")

    report = make_shards(source, tmp_path / "out", CopyJob())

    assert list(report.failed) == ["00003.parquet"]
    assert "was made from other rows" in report.failed["00003.parquet"]


def test_what_is_there_is_looked_at_without_making_any(source: Path, tmp_path: Path) -> None:
    make_shards(source, tmp_path / "out", CopyJob(), Part(0, 2))

    assert (look(tmp_path / "out").there, look(tmp_path / "out").shards) == (3, 5)


def test_a_folder_of_another_kind_is_refused(source: Path, tmp_path: Path) -> None:
    class OfSamples(CopyJob):
        takes = "samples"

    with pytest.raises(RecordError, match="has prompts; a folder of samples is needed"):
        make_shards(source, tmp_path / "out", OfSamples())


def test_counts_of_shards_add_up_by_name() -> None:
    one = {"n": 1.0, "by": {"a": 1.0}}

    assert added(one, {"n": 2, "by": {"a": 1, "b": 2}, "new": 3}) == {
        "n": 3, "by": {"a": 2, "b": 2}, "new": 3,
    }  # fmt: skip
    assert one == {"n": 1.0, "by": {"a": 1.0}}
