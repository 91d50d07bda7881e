"""Stages run once, and again only when what they depend on has changed."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.pipeline.runner import RunError, Stage, run_stages


class Diary:
    """Two stages, the second reading the first's output, and what was run."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.ran: list[str] = []
        self.seed = 1
        self.console = Console(file=io.StringIO())

    def stages(self, second: Callable[[], None] | None = None) -> list[Stage]:
        def first() -> None:
            self.ran.append("first")
            (self.run_dir / "first" / "out").write_text(f"made with {self.seed}")

        def then() -> None:
            self.ran.append("second")
            (self.run_dir / "second" / "out").write_text("done")

        return [
            Stage(
                "first", "makes", self.run_dir / "first", lambda: {"seed": self.seed}, first, 1.0
            ),
            Stage(
                "second",
                "uses",
                self.run_dir / "second",
                lambda: (self.run_dir / "first" / "out").read_text(),
                second or then,
                1.0,
            ),
        ]

    def run(self, second: Callable[[], None] | None = None) -> list[str]:
        self.ran = []
        run_stages(self.stages(second), self.run_dir, self.console)
        return self.ran


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "run")


def test_a_second_run_does_nothing(diary: Diary) -> None:
    assert diary.run() == ["first", "second"]
    assert diary.run() == []


def test_a_changed_input_runs_its_stage_and_those_that_depend_on_it(diary: Diary) -> None:
    diary.run()
    diary.seed = 2
    assert diary.run() == ["first", "second"]


def test_a_changed_input_with_an_unchanged_outcome_stops_there(diary: Diary) -> None:
    diary.run()
    (diary.run_dir / ".stages" / "first.json").unlink()
    assert diary.run() == ["first"]


def test_a_lost_output_is_made_again(diary: Diary) -> None:
    diary.run()
    (diary.run_dir / "second" / "out").unlink()
    assert diary.run() == ["second"]


def test_a_failed_stage_keeps_what_was_before_and_what_it_had(diary: Diary) -> None:
    def breaks() -> None:
        (diary.run_dir / "second" / "part").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        diary.run(breaks)
    kept: list[bool] = []

    def goes_on() -> None:
        kept.append((diary.run_dir / "second" / "part").exists())

    assert diary.run(goes_on) == []
    assert kept == [True]


def test_part_of_other_work_is_cleared_away(diary: Diary) -> None:
    def breaks() -> None:
        (diary.run_dir / "second" / "part").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        diary.run(breaks)
    diary.seed = 2
    diary.run()
    assert not (diary.run_dir / "second" / "part").exists()


def test_two_runs_in_one_folder_are_refused(diary: Diary) -> None:
    def second() -> None:
        script = textwrap.dedent(f"""
            from pathlib import Path
            from rich.console import Console
            from rlaif.pipeline.runner import RunError, run_stages
            try:
                run_stages([], Path({str(diary.run_dir)!r}), Console())
            except RunError as error:
                print(error)
        """)
        out = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert "another run is using this folder" in out.stdout
        raise RunError("seen")

    with pytest.raises(RunError, match="seen"):
        diary.run(second)


def test_models_that_were_fetched_before_do_not_promise_a_fast_machine(diary: Diary) -> None:
    """Fetching was measured with 10 minutes and takes none; the 50 of computing are still ahead."""

    def stage(name: str, minutes: float, computes: bool) -> Stage:
        folder = diary.run_dir / name
        return Stage(name, "works", folder, dict, lambda: None, minutes, computes=computes)

    run_stages([stage("fetch", 10, False), stage("train", 50, True)], diary.run_dir, diary.console)
    said = diary.console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/2 train  works (about 50 min to the end)" in said


def test_computing_that_takes_half_the_time_halves_what_is_left(diary: Diary, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ticks = iter([0.0, 9 * 60.0, 0.0, 0.0])
    monkeypatch.setattr("rlaif.pipeline.runner.time.monotonic", lambda: next(ticks))
    stages = [
        Stage(name, "works", diary.run_dir / name, dict, lambda: None, minutes)
        for name, minutes in (("first", 20.0), ("second", 40.0))
    ]
    run_stages(stages, diary.run_dir, diary.console)
    said = diary.console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/2 second  works (about 20 min to the end)" in said  # (2 + 9) / (2 + 20) of 40
