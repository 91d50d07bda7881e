"""The file changes that are reported, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from judge_service.security.file_watch import MOST_POLLS, FileWatch


def rewrite(file: Path) -> None:
    file.write_text("other, and longer")


def rewrite_and_keep_the_time(file: Path) -> None:
    before = file.stat()
    file.write_text("2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text("2")
    fresh.rename(file)


CHANGES: list[Callable[[Path], None]] = [
    rewrite, rewrite_and_keep_the_time, replace, Path.unlink, lambda file: file.chmod(0),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_reported_once_when_it_has_settled(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    file = tmp_path / "watched"
    file.write_text("1")
    os.utime(file, ns=(1, 1))  # the clock of a file system is coarse: let the next write differ
    watch = FileWatch([file, tmp_path / "never there"])
    assert [watch.changed() for _ in range(3)] == [False] * 3
    change(file)
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_change_that_was_marked_as_read_is_not_reported(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    watch = FileWatch([file])
    file.write_text("1")
    assert not watch.changed()
    watch.mark()
    assert not watch.changed()


def test_a_file_that_never_settles_is_reported_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    watch = FileWatch([file])
    reported = []
    for poll in range(2 * MOST_POLLS):
        file.write_text("x" * poll)
        reported.append(watch.changed())
    assert reported.index(True) == MOST_POLLS - 1
    assert sum(reported) == 2
