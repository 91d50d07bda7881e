"""The journal keeps what was appended, whatever happens to the process or the disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rlaif.data.journal import SYNC_ENTRIES, SYNC_SECONDS, Journal
from rlaif.data.records import RecordError

ROOT = Path(__file__).resolve().parents[3]


class Line(BaseModel):
    number: int


def filled(path, count):
    with Journal(path, Line) as journal:
        for number in range(count):
            journal.append(Line(number=number))


def numbers(path):
    with Journal(path, Line) as journal:
        return [line.number for _, line in journal.scan()]


def test_what_was_appended_is_there_when_opened_again(tmp_path):
    filled(tmp_path / "journal.jsonl", 3)
    assert numbers(tmp_path / "journal.jsonl") == [0, 1, 2]


@pytest.mark.parametrize("torn", [b"{", b'{"number": 7}', b"\0\0\0"])
def test_a_torn_last_line_is_cut_and_the_next_one_stands_by_itself(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    filled(path, 2)
    with path.open("ab") as file:
        file.write(torn)
    with Journal(path, Line) as journal:
        assert [line.number for _, line in journal.scan()] == [0, 1]
        journal.append(Line(number=2))
    assert numbers(path) == [0, 1, 2]


def test_any_other_broken_line_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    lines = ['{"number": 1}'] * 5000
    lines[4710] = '{"number": '
    path.write_text("\n".join(lines) + "\n")
    with (
        Journal(path, Line) as journal,
        pytest.raises(RecordError, match=r"journal\.jsonl:4711: .*delete this line"),
    ):
        list(journal.scan())
    assert len(path.read_text().splitlines()) == 5000


def test_a_full_disk_is_an_error_and_half_a_line_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    real_write = os.write

    def half_then_full(file, data):
        if len(data) > 5:
            return real_write(file, data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path, Line) as journal:
        journal.append(Line(number=0))
        monkeypatch.setattr(os, "write", half_then_full)
        with pytest.raises(RecordError, match=r"No space left on device.*before is safe"):
            journal.append(Line(number=1))
        monkeypatch.undo()
        journal.append(Line(number=2))
    assert numbers(path) == [0, 2]


def test_two_processes_cannot_write_one_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, Line), pytest.raises(RecordError, match="another process"):
        Journal(path, Line)
    assert numbers(path) == []


def test_a_folder_in_its_place_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="cannot be opened"):
        Journal(tmp_path, Line)


def test_entries_are_read_again_from_their_places_while_open_and_closed(tmp_path):
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    with Journal(path, Line) as journal:
        places = [place for place, _ in journal.scan()]
        places.append(journal.append(Line(number=3)))
        assert [line.number for line in journal.read(reversed(places))] == [3, 2, 1, 0]
    assert [line.number for line in journal.read(places[1:2])] == [1]


@pytest.mark.parametrize("length", [1, 65535, 65536, 65537, 200_000])
def test_a_torn_line_of_any_length_is_cut(tmp_path, length):
    path = tmp_path / "journal.jsonl"
    filled(path, 2)
    with path.open("ab") as file:
        file.write(b"x" * length)
    assert numbers(path) == [0, 1]


def test_a_file_that_holds_nothing_but_a_torn_line_is_emptied(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"x" * 70_000)
    assert numbers(path) == []
    assert path.stat().st_size == 0


# ── group commit ─────────────────────────────────────────────────────────────────────────────


class Clock:
    """Seconds that pass only when a test says so."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def disk(monkeypatch):
    """What a power failure would leave of each file: its size at its last fsync, by inode."""

    class Disk:
        fsyncs = 0
        full = False
        left: dict[int, int] = {}  # noqa: RUF012

        def bytes_of(self, path):
            return self.left.get(path.stat().st_ino, 0)

    watched, real = Disk(), os.fsync

    def fsync(file):
        if watched.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)
        watched.fsyncs += 1
        status = os.fstat(file)
        watched.left[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    return watched


def test_a_slow_writer_syncs_every_entry(tmp_path, disk):
    clock, path = Clock(), tmp_path / "journal.jsonl"
    with Journal(path, Line, clock=clock) as journal:
        for number in range(10):
            clock.now += 2 * SYNC_SECONDS
            journal.append(Line(number=number))
            assert journal.unsynced == 0
            assert disk.bytes_of(path) == path.stat().st_size


def test_a_fast_writer_syncs_once_in_50_ms(tmp_path, disk):
    clock, path = Clock(), tmp_path / "journal.jsonl"
    with Journal(path, Line, clock=clock) as journal:
        before = disk.fsyncs
        for number in range(1000):  # at 2 000 entries a second: half a second
            clock.now += 0.0005
            journal.append(Line(number=number))
        assert 9 <= disk.fsyncs - before <= 10
    assert disk.bytes_of(path) == path.stat().st_size
    assert numbers(path) == list(range(1000))


def test_no_more_than_256_entries_wait_for_a_sync(tmp_path, disk):
    path = tmp_path / "journal.jsonl"
    with Journal(path, Line, clock=Clock()) as journal:
        before, waiting = disk.fsyncs, []
        for number in range(4 * SYNC_ENTRIES):
            journal.append(Line(number=number))
            waiting.append(journal.unsynced)
        assert disk.fsyncs - before == 4
        assert max(waiting) == SYNC_ENTRIES - 1
        journal.sync()
        assert disk.fsyncs - before == 4, "nothing was left to sync"


def test_entries_are_in_the_file_before_they_are_synced(tmp_path, disk):
    path = tmp_path / "journal.jsonl"
    with Journal(path, Line, clock=Clock()) as journal:
        places = [journal.append(Line(number=number)) for number in range(3)]
        assert journal.unsynced == 3
        assert [line.number for line in journal.read(places)] == [0, 1, 2]
        assert disk.bytes_of(path) == 0


def test_an_error_inside_the_block_still_leaves_everything_synced(tmp_path, disk):
    path = tmp_path / "journal.jsonl"

    def interrupted():
        with Journal(path, Line, clock=Clock()) as journal:
            journal.append(Line(number=0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert disk.bytes_of(path) == path.stat().st_size > 0


def test_what_a_killed_writer_left_is_synced_before_it_is_read(tmp_path, disk):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"number": 0}\n{"numb')
    with Journal(path, Line, clock=Clock()) as journal:
        assert disk.bytes_of(path) == len(b'{"number": 0}\n')
        assert [line.number for _, line in journal.scan()] == [0]


@pytest.mark.parametrize("at", ["append", "sync", "close"])
def test_a_disk_that_is_full_at_a_sync_loses_nothing_that_was_synced(tmp_path, disk, at):
    clock, path = Clock(), tmp_path / "journal.jsonl"
    journal = Journal(path, Line, clock=clock)
    journal.append(Line(number=0))
    journal.sync()
    journal.append(Line(number=1))
    disk.full = True
    clock.now += 2 * SYNC_SECONDS if at == "append" else 0
    with pytest.raises(RecordError, match=r"No space left.*before is safe; make room and run"):
        journal.append(Line(number=2)) if at == "append" else getattr(journal, at)()
    disk.full = False
    assert journal.unsynced == 0
    if at != "close":
        journal.append(Line(number=3))
        journal.close()
    assert numbers(path) == ([0] if at == "close" else [0, 3])


def test_a_full_disk_at_a_write_syncs_what_came_before(tmp_path, disk, monkeypatch):
    path = tmp_path / "journal.jsonl"

    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path, Line, clock=Clock()) as journal:
        journal.append(Line(number=0))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RecordError, match="before is safe"):
            journal.append(Line(number=1))
        assert journal.unsynced == 0
        assert disk.bytes_of(path) == path.stat().st_size > 0
    assert numbers(path) == [0]


def test_a_sync_that_fails_while_it_is_opened_cuts_nothing(tmp_path, disk):
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    disk.full = True
    with pytest.raises(RecordError, match="make room"):
        Journal(path, Line)
    disk.full = False
    assert numbers(path) == [0, 1, 2]


@given(
    steps=st.lists(st.sampled_from(["append", "wait", "sync"]), max_size=60),
    torn=st.integers(0, 40),
)
def test_a_power_failure_loses_only_entries_that_were_counted_as_unsynced(
    tmp_path_factory, steps, torn
):
    """The file is cut where its last fsync left it, or `torn` bytes later, as disks do."""
    path, clock, synced = tmp_path_factory.mktemp("power") / "journal.jsonl", Clock(), 0
    real = os.fsync

    def fsync(file):
        nonlocal synced
        real(file)
        synced = os.fstat(file).st_size if file == journal_file else synced

    journal = Journal(path, Line, clock=clock)
    journal_file = journal._file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        appended = acknowledged = 0
        for step in steps:
            if step == "append":
                journal.append(Line(number=appended))
                appended += 1
            elif step == "sync":
                journal.sync()
            else:
                clock.now += SYNC_SECONDS / 2
            acknowledged = appended - journal.unsynced
        left = path.read_bytes()[: synced + torn]
    journal.close()
    path.write_bytes(left)
    assert numbers(path) == list(range(max(acknowledged, left.count(b"\n"))))


ACKNOWLEDGES = """
import sys
from pathlib import Path
from pydantic import BaseModel
from rlaif.data.journal import Journal
class Line(BaseModel):
    number: int
with Journal(Path(sys.argv[1]), Line) as journal:
    for number in range(10_000_000):
        journal.append(Line(number=number))
        print("acknowledged", number + 1 - journal.unsynced, flush=True)
"""


@pytest.mark.parametrize("after", [1, 700])
def test_a_writer_killed_with_kill_9_keeps_all_that_it_acknowledged(tmp_path, after):
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", ACKNOWLEDGES, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as writer:
        assert writer.stdout is not None
        lines = (line.split() for line in writer.stdout)
        last = next(int(line[1]) for line in lines if int(line[1]) >= after)
        writer.kill()
        rest = [int(line[1]) for line in lines if len(line) == 2]  # the last may be cut
    found = numbers(path)
    assert found == list(range(len(found)))
    assert len(found) >= max([last, *rest])
