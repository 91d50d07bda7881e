"""Stages run once, and again only when what they declare has changed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from constitution.errors import UserError
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.options import StageOptions
from rlaif.pipeline.runner import (
    RunError,
    Selection,
    changes,
    digested,
    is_finished,
    locked,
    run_stages,
)
from rlaif.pipeline.stage import ArtifactType, Files, Source, Stage
from rlaif.settings import SettingsModel
from tests.support.training.recipes import a_recipe


class WritingStage(Stage):
    """Writes `text` and what it takes into a file, and notes that it ran."""

    kind = "writing"
    takes = {}  # noqa: RUF012
    gives = ArtifactType.SAMPLES

    def prepare(self, diary: Diary) -> WritingStage:
        self.diary = diary
        self.work: Callable[[], None] = lambda: None
        return self

    def does(self, context: RunContext) -> str:
        return "writes"

    def inputs(self, context: RunContext) -> dict[str, Any]:
        return {"seed": self.diary.seeds.get(self.name, 0)}

    def run(self, context: RunContext) -> None:
        self.diary.ran.append(self.name)
        self.work()
        taken = "".join(stage.outputs.paths[0].read_text() for stage in self.predecessors)
        size = self.diary.seeds.get(self.name, 0) if self.name != "calm" else 0
        self.outputs.paths[0].write_text(f"{self.name}{size}{taken}")

    @property
    def outputs(self) -> Files:
        return Files((self.folder / "out",))


class Diary:
    """first → second; calm and free stand alone."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.ran: list[str] = []
        self.seeds: dict[str, int] = {}
        self.console = Console(file=io.StringIO(), width=200)
        self.context = RunContext(a_recipe(), run_dir)
        self.first = self.stage("first", 1.0)
        self.second = self.stage("second", 1.0, self.first)
        self.free = self.stage("free", 1.0)

    def stage(self, name: str, minutes: float, *before: Stage) -> WritingStage:
        sources = {"takes": tuple(Source(stage.name, stage) for stage in before)}
        made = WritingStage(
            name, self.run_dir / name, sources, StageOptions(), SettingsModel(), minutes
        )
        return made.prepare(self)

    def run(self, *stages: Stage, selection: Selection | None = None) -> list[str]:
        self.ran.clear()
        every = stages or (self.first, self.second, self.free)
        with locked(self.run_dir):
            run_stages(every, self.context, self.console, selection or Selection())
        return self.ran

    @property
    def said(self) -> str:
        return self.console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "run")


def breaks(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_runner_a_second_run_does_nothing(diary: Diary) -> None:
    assert diary.run() == ["first", "second", "free"]
    assert diary.run() == []


def test_runner_a_changed_input_runs_its_stage_and_those_that_depend_on_it(diary: Diary) -> None:
    diary.run()
    diary.seeds["first"] = 2
    assert diary.run() == ["first", "second"]


def test_runner_a_changed_input_with_an_unchanged_outcome_stops_there(diary: Diary) -> None:
    calm = diary.stage("calm", 1.0)
    after = diary.stage("after", 1.0, calm)
    diary.run(calm, after)
    diary.seeds["calm"] = 2
    assert diary.run(calm, after) == ["calm"]


def test_runner_a_lost_output_is_made_again(diary: Diary) -> None:
    diary.run()
    (diary.run_dir / "second" / "out").unlink()
    assert diary.run() == ["second"]


def test_runner_a_crash_keeps_what_was_before_and_what_the_stage_had(diary: Diary) -> None:
    part = diary.run_dir / "second" / "part"

    def work() -> None:
        part.write_text("half")
        raise RuntimeError("power cut")

    diary.second.work = work
    with pytest.raises(RuntimeError):
        diary.run()
    kept: list[bool] = []
    diary.second.work = lambda: kept.append(part.exists())
    assert diary.run() == ["second", "free"]
    assert kept == [True]


def test_runner_part_of_other_work_is_cleared_away(diary: Diary) -> None:
    part = diary.run_dir / "second" / "part"
    diary.run()
    part.write_text("half")
    diary.seeds["first"] = 2
    diary.run()
    assert not part.exists()


def test_runner_a_failed_stage_leaves_the_others_results(diary: Diary) -> None:
    diary.first.work = breaks(UserError("the disk is full"))
    with pytest.raises(RunError) as error:
        diary.run()
    assert diary.ran == ["first", "free"], "a stage that takes nothing from it still runs"
    assert "stage first: the disk is full" in str(error.value)
    assert "stage second: it takes first, which failed" in str(error.value)
    assert "1 finished; run again to continue with the rest" in str(error.value)
    diary.first.work = lambda: None
    assert diary.run() == ["first", "second"]


def test_runner_a_selection_runs_alone_and_needs_what_it_takes(diary: Diary) -> None:
    second = Selection(frozenset({diary.second}))
    with pytest.raises(RunError, match="takes first, which is not finished with these settings"):
        diary.run(selection=second)
    assert diary.ran == []
    assert diary.run(selection=Selection(frozenset({diary.first}))) == ["first"]
    assert diary.run(selection=second) == ["second"]
    diary.seeds["first"] = 2
    with pytest.raises(RunError, match="or with --from first"):
        diary.run(selection=second)


def test_runner_says_why_a_stage_runs_again(diary: Diary) -> None:
    diary.run()

    def why() -> str:
        return changes(diary.second, diary.run_dir, digested(diary.second, diary.context))

    assert is_finished(diary.second, diary.run_dir, digested(diary.second, diary.context))
    (diary.run_dir / "first" / "out").write_text("other")
    assert why() == "changed: takes.takes"
    diary.seeds["second"] = 1
    assert why() == "changed: seed, takes.takes"


def test_runner_the_folder_of_an_earlier_version_is_refused_whole(diary: Diary) -> None:
    mark = diary.run_dir / ".stages" / "sample.json"
    mark.parent.mkdir(parents=True)
    mark.write_text(json.dumps({"inputs": "0" * 64, "state": "finished", "files": {}}))
    with pytest.raises(RunError, match=r"made by an earlier version.*--out, or remove this one"):
        diary.run()
    assert diary.ran == []


def test_runner_a_damaged_mark_runs_its_stage_again(diary: Diary) -> None:
    diary.run()
    (diary.run_dir / ".stages" / "second.json").write_text("{")
    assert diary.run() == ["second"]


@pytest.mark.parametrize("mark", ["[]", "null", '{"form": 2}', '{"form": 2, "state": "finished"}'])
def test_runner_a_mark_without_what_it_should_have_runs_its_stage_again(
    diary: Diary, mark: str
) -> None:
    diary.run()
    (diary.run_dir / ".stages" / "second.json").write_text(mark)
    assert changes(diary.second, diary.run_dir, {}) == ""
    assert diary.run() == ["second"]


def test_runner_a_folder_that_no_run_made_is_never_emptied(diary: Diary) -> None:
    own = diary.run_dir / "second" / "adapter_model.safetensors"
    own.parent.mkdir(parents=True)
    own.write_text("a week of training")
    with pytest.raises(RunError, match=r"not made by a run .*second; move them away, or choose"):
        diary.run()
    assert diary.ran == []
    assert own.read_text() == "a week of training"
    own.unlink()  # an empty folder is nothing to lose
    assert diary.run() == ["first", "second", "free"]


def test_runner_a_kill_while_a_folder_is_emptied_leaves_nothing_to_resume_from(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary.run()
    part = diary.run_dir / "second" / "part"
    part.write_text("of a finished run")

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlaif.pipeline.runner._empty", killed)
        diary.seeds["second"] = 2
        with pytest.raises(KeyboardInterrupt):
            diary.run()
    del diary.seeds["second"]  # as in the finished run
    assert diary.run() == ["second"]
    assert not part.exists()


def test_runner_a_stage_folder_on_another_disk_is_emptied_behind_its_link(
    diary: Diary, tmp_path: Path
) -> None:
    diary.run()
    elsewhere = tmp_path / "large_disk"
    (diary.run_dir / "second").rename(elsewhere)
    (diary.run_dir / "second").symlink_to(elsewhere)
    (elsewhere / "part").write_text("half")
    diary.seeds["first"] = 2
    assert diary.run() == ["first", "second"]
    assert sorted(path.name for path in elsewhere.iterdir()) == ["out"]


def test_runner_a_full_disk_fails_its_stage_and_leaves_the_others(diary: Diary) -> None:
    diary.first.work = breaks(OSError(28, "No space left on device", "run/first/out"))
    with pytest.raises(RunError, match="stage first: run/first/out: No space left on device"):
        diary.run()
    assert diary.ran == ["first", "free"]


def test_runner_a_stage_whose_inputs_cannot_be_read_leaves_the_others(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inputs(context: RunContext) -> dict[str, Any]:
        raise UserError("no prompt of that kind")

    monkeypatch.setattr(diary.first, "inputs", inputs)
    with pytest.raises(RunError, match="stage first: no prompt of that kind"):
        diary.run()
    assert diary.ran == ["free"]


def test_runner_files_of_one_name_in_several_folders_all_count(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "run")
    paths = tuple(tmp_path / name / "metrics.jsonl" for name in ("a", "b"))
    for path in paths:
        path.parent.mkdir()
        path.write_text("1")
    diary.first.inputs = lambda context: {"files": Files(paths)}  # type: ignore[method-assign]
    before = digested(diary.first, diary.context)
    assert before["files"].keys() == {"a/metrics.jsonl", "b/metrics.jsonl"}
    paths[0].write_text("2")
    assert digested(diary.first, diary.context) != before


def test_runner_a_run_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "run"):
        with pytest.raises(RunError, match=r"cannot be used as a run's folder .* choose another"):
            Diary(folder).run()
    assert file.read_text() == "mine"


def test_runner_two_runs_in_one_folder_are_refused(diary: Diary) -> None:
    def work() -> None:
        script = textwrap.dedent(f"""
            from pathlib import Path
            from rlaif.pipeline.runner import RunError, locked
            try:
                with locked(Path({str(diary.run_dir)!r})):
                    print("no lock")
            except RunError as error:
                print(error)
        """)
        out = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert "another run is using this folder" in out.stdout
        raise UserError("seen")

    diary.second.work = work
    with pytest.raises(RunError, match="seen"):
        diary.run()


def test_runner_computing_that_takes_half_the_time_halves_what_is_left(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 9 * 60.0, 0.0, 0.0])
    monkeypatch.setattr("rlaif.pipeline.runner.time.monotonic", lambda: next(ticks))
    diary.run(diary.stage("one", 20.0), diary.stage("two", 40.0))
    assert "2/2 two  writes (about 20 min to the end)" in diary.said  # (2 + 9) / (2 + 20) of 40


def test_runner_promises_no_time_where_nobody_measured_it(diary: Diary) -> None:
    diary.run(diary.stage("one", 0.0))
    assert "1/1 one  writes\n" in diary.said
