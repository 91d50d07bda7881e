"""Shard after shard: skipped if it is there, locked, made, and given its name.

    SOURCE/00003.parquet ─► OUT/.work/00003/ (lock, journals, the unnamed file) ─► OUT/00003.parquet

Any number of processes may work on one folder. Each takes the shards of its part that nobody has
locked; a lock ends with its process, so what a killed one had begun is taken up by the next. A
shard that cannot be made is set aside and reported, and the others are made: unless several fail in
a row, as when the disk is full or the judge is gone.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Protocol, TypeAlias

from constitution.errors import UserError
from rlaif.data.files import RecordError
from rlaif.data.shards.folder import ShardList, claim_list, place_once, read_list
from rlaif.data.shards.parquet import ShardNote, content_key, noted_copy, read_note
from rlaif.feedback.pairs import digest
from rlaif.progress import progress
from rlaif.sharding.jobs import Counts, ShardJob, ShardWorker, added
from rlaif.sharding.part import WHOLE, Part

WORK = ".work"

Do: TypeAlias = Callable[[str], str]
Results: TypeAlias = Generator[tuple[str, str | UserError], None, None]

_FAILURES_IN_A_ROW = 3


class Outcome(StrEnum):
    """What became of one shard."""

    MADE = auto()
    FOUND = auto()  # it was there
    BUSY = auto()  # another process makes it
    WAITING = auto()  # the shard it is made from is not there yet
    RETRIED = auto()  # its worker died, and another one does it: what became of it follows


@dataclass(slots=True)
class ShardsReport:
    """What a call did, and what is in the folder now.

    failed: shard → error. rows, counts: of all shards that are there, this call's or not.
    """

    shards: int
    own: int
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    there: int = 0
    rows: int = 0
    counts: Counts = field(default_factory=dict)

    @property
    def retried(self) -> int:
        """Tries that were lost with their worker."""
        return self.outcomes.get(Outcome.RETRIED, 0)

    @property
    def ended(self) -> int:
        """Shards of which this call knows what became."""
        return sum(self.outcomes.values()) - self.retried + len(self.failed)

    def add(self, outcome: Outcome) -> None:
        """Count what became of a shard."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Fleet(Protocol):
    """Where the shards are made, if not by this process."""

    def results(
        self, names: Iterable[str], opens: Callable[[], AbstractContextManager[Do]]
    ) -> Results:
        """What became of each, as they are finished."""


def make_shards(
    source: Path, out: Path, job: ShardJob, part: Part = WHOLE, fleet: Fleet | None = None
) -> ShardsReport:
    """Make the shards of `part` in `out` from those of the same names in `source`.

    fleet: where to make them; None: in this process, one after another. Raises RecordError for a
    source of another kind, and for a folder `out` that was made otherwise; and what the job raises
    when it opens, or when several shards fail in a row.
    """
    listed = read_list(source)
    if listed.holds != job.takes:
        raise RecordError(f"{source}: has {listed.holds}; a folder of {job.takes} is needed")
    own = part.of(listed.shards)
    source, out = source.absolute(), out.absolute()  # workers may be at home elsewhere
    report, in_a_row = ShardsReport(len(listed.shards), len(own)), 0
    opens = Making(job, source, out)
    results = fleet.results(own, opens) if fleet else _here(own, opens)
    with closing(results), progress("shards", len(own), "shards") as show:
        for name, became in results:
            if isinstance(became, UserError):
                print(f"shard {name}: {became}", file=sys.stderr)
                report.failed[name], in_a_row = str(became), in_a_row + 1
                if in_a_row == _FAILURES_IN_A_ROW:
                    raise became
            else:
                report.add(Outcome(became))
                in_a_row = in_a_row if became == Outcome.RETRIED else 0
            show(report.ended, name)
    _count(out, listed.shards, report)
    if report.there == report.shards:
        _tidy(out / WORK)
    return report


def _tidy(work: Path) -> None:
    """Remove what processes left that were killed after they had named their shard."""
    for folder in work.glob("*"):
        with _locked(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not there, or another process holds a folder in it
        work.rmdir()


def look(folder: Path) -> ShardsReport:
    """What is in a folder of shards now. Raises RecordError."""
    names = read_list(folder).shards
    report = ShardsReport(len(names), 0)
    _count(folder, names, report)
    return report


@dataclass(frozen=True, slots=True)
class Making:
    """A job between two folders, which can be sent to where it is done."""

    job: ShardJob
    source: Path
    out: Path

    @contextmanager
    def __call__(self) -> Iterator[Do]:
        """Makes a shard by its name, and returns its Outcome."""
        shards = read_list(self.source).shards
        with self.job.opened(self.out) as worker:
            settings = dict(worker.settings)
            claim_list(self.out, ShardList(holds=self.job.gives, shards=shards, made_with=settings))
            yield lambda name: _make(self.source / name, self.out / name, worker)


def _here(names: Iterable[str], opens: Making) -> Results:
    with opens() as do:
        for name in names:
            try:
                became: str | UserError = do(name)
            except UserError as error:
                became = error
            yield name, became


def _make(shard: Path, target: Path, worker: ShardWorker) -> Outcome:
    if target.is_file():
        _require_made_from(shard, target, worker)
        return Outcome.FOUND
    if not shard.is_file():
        return Outcome.WAITING
    folder = target.parent / WORK / target.stem
    with _locked(folder) as free:
        if not free:
            return Outcome.BUSY
        if target.is_file():  # made while this process waited for the lock
            return Outcome.FOUND
        made = worker.make(shard, folder)
        note = ShardNote(key=_key(shard, worker), rows=made.rows, counts=made.counts)
        noted = folder / "noted.parquet"
        noted_copy(made.file, noted, note)
        for name, file in made.beside.items():
            to = target.parent / name / f"{target.stem}{file.suffix}"
            to.parent.mkdir(exist_ok=True)
            file.replace(to)
        place_once(noted, target)
        shutil.rmtree(folder)
    return Outcome.MADE


def _key(shard: Path, worker: ShardWorker) -> str:
    return digest([content_key(shard), dict(worker.settings)])


def _require_made_from(shard: Path, target: Path, worker: ShardWorker) -> None:
    """RecordError where a shard that is there was made from other rows than are in the source."""
    note = read_note(target)
    if shard.is_file() and note is not None and note.key != _key(shard, worker):
        raise RecordError(
            f"{target}: was made from other rows than {shard} has now; delete it to make it again"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is this process's alone until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = (folder / "lock").open("w")
    except FileNotFoundError:  # whoever had it has just finished and removed it
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _count(out: Path, names: Sequence[str], report: ShardsReport) -> None:
    """Add up the notes of the shards that are there."""
    for name in names:
        note = read_note(out / name) if (out / name).is_file() else None
        if note is not None:
            report.there += 1
            report.rows += note.rows
            report.counts = added(report.counts, note.counts)
