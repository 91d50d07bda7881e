"""A save is reported once, when the file no longer changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rlaif.constitution_tools.watch import saves


def write(path: Path, text: str, time: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(time, time))


def test_saves_are_reported_when_the_file_is_stable_and_a_missing_file_is_waited_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rules.yaml"
    write(path, "one", 1)
    polls = 0
    steps: dict[int, Callable[[], None]] = {
        2: lambda: write(path, "half", 2),
        3: lambda: write(path, "whole", 3),
        6: path.unlink,
        8: lambda: write(path, "new", 4),
    }

    def wait(seconds: float) -> None:
        nonlocal polls
        polls += 1
        steps.get(polls, lambda: None)()

    stream = saves(path, wait)
    seen = []
    for _ in range(3):
        next(stream)
        seen.append((polls, path.read_text()))
    assert seen == [(0, "one"), (4, "whole"), (9, "new")]
