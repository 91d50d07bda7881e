"""The journal keeps what was appended, whatever happens to the process or the disk."""

import errno
import os

import pytest
from pydantic import BaseModel

from rlaif.data.journal import Journal
from rlaif.data.records import RecordError


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
