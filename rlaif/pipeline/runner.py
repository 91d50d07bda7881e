"""Runs the stages of a graph; a finished one is skipped as long as its inputs are the same.

A stage declares everything its outcome depends on: settings, and digests of the files that it
reads. What a finished stage declared is kept in `.stages/NAME.json` of the run folder, with the
files that it wrote. A killed or failed stage leaves its mark at "started": the next run starts it
again in the same folder, where the trainers find their checkpoints and labeling its journal. When
the inputs changed, the stage's folder is emptied first. When a stage fails, those that take nothing
from it still run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape

from constitution.errors import UserError
from hardware.memory import give_back_freed
from rlaif.data.records import write_json
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet.places import where
from rlaif.pipeline.stage import Files, Stage

FORM = 2  # of the marks
_PRIOR_MINUTES = 2.0  # of the machine's speed, so that one short stage does not decide


class RunError(UserError):
    """A run that cannot continue: why, and what to do. failed: stage → why it failed itself, of
    stages that ran; those that take something from one of them are not among them."""

    def __init__(self, message: str, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stages to run: all, or those chosen; what they take must be finished."""

    chosen: frozenset[Stage] | None = None

    def __contains__(self, stage: object) -> bool:
        return self.chosen is None or stage in self.chosen


def run_stages(
    stages: Sequence[Stage], context: RunContext, console: Console, selection: Selection
) -> None:
    """Run the selected stages that are not finished, printing each and about how long is left. The
    caller holds the folder (`locked`).

    Raises RunError when a stage failed or could not start: after all others that could run.
    """
    chosen = [stage for stage in stages if stage in selection]
    failed: dict[Stage, str] = {}
    waiting: set[Stage] = set()  # those among them that never ran
    refuse_foreign(chosen, context.folder)
    spent = foreseen = _PRIOR_MINUTES
    for place, stage in enumerate(chosen, start=1):
        head = f"[bold]{place}/{len(chosen)} {stage.name}[/bold]"
        try:
            # 1. The round before may have been the last; what it takes has to be there.
            if reason := _not_needed(stage, context, selection, failed):
                console.print(f"{head}  not needed: {escape(reason)}", soft_wrap=True)
                continue
            if reason := _obstacle(stage, context, selection, failed):
                failed[stage] = reason
                waiting.add(stage)
                console.print(f"{head}  not run: {escape(reason)}", soft_wrap=True)
                continue
            # 2. The same inputs as before: nothing to do.
            inputs = digested(stage, context)
            if is_finished(stage, context.folder, inputs):
                console.print(f"{head}  finished before, skipped", soft_wrap=True)
                continue
            # 3. The work; the time it takes says how fast this machine is.
            left = spent / foreseen * sum(later.minutes for later in chosen[place - 1 :])
            does = escape(stage.does(context) + where(stage, context.recipe))
            console.print(f"{head}  {does}{_about(left)}", soft_wrap=True)
            seconds = _run(stage, context, inputs)
        except (UserError, OSError) as error:
            failed[stage] = _reason(error)
            console.print(f"   [red]failed[/red]: {escape(failed[stage])}", soft_wrap=True)
            continue
        spent, foreseen = spent + seconds / 60, foreseen + stage.minutes
        console.print(f"   [dim]done in {seconds / 60:.1f} min[/dim]")
    if failed:
        own = {s.name: reason for s, reason in failed.items() if s not in waiting}
        raise RunError(_summary(failed, len(chosen)), own)


def _not_needed(
    stage: Stage, context: RunContext, selection: Selection, failed: Mapping[Stage, str]
) -> str:
    """Why a stage need not run, as its gates have found in this run or, finished, in an earlier
    one; "" if it must."""
    gate = stage.gate
    while gate is not None:
        if gate in failed:
            return ""
        waits = gate not in selection and not gate.not_needed
        if waits and not is_finished(gate, context.folder, digested(gate, context)):
            return ""
        gate = gate.gate
    return stage.not_needed


def _reason(error: UserError | OSError) -> str:
    """Why a stage failed; of what the system refuses, such as a full disk, with the file."""
    if isinstance(error, UserError) or not error.strerror:
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; make it possible, and run again"


def _about(minutes: float) -> str:
    """The time to the end; nothing where the recipe has no `minutes` to tell it from."""
    return f" [dim](about {minutes:.0f} min to the end)[/dim]" if minutes else ""


def _obstacle(
    stage: Stage, context: RunContext, selection: Selection, failed: Mapping[Stage, str]
) -> str:
    """Why a stage cannot start; "" if it can."""
    for before in stage.predecessors:
        if before in failed:
            return f"it takes {before.name}, which failed"
        if (
            before not in selection
            and not before.not_needed
            and not is_finished(before, context.folder, digested(before, context))
        ):
            return (
                f"it takes {before.name}, which is not finished with these settings; run without "
                f"--only, or with --from {before.name}"
            )
    return ""


def _summary(failed: Mapping[Stage, str], total: int) -> str:
    lines = [f"stage {stage.name}: {reason}" for stage, reason in failed.items()]
    if finished := total - len(failed):
        lines.append(f"{finished} finished; run again to continue with the rest")
    return "\n".join(lines)


# ── marks ────────────────────────────────────────────────────────────────────────────────────


def is_finished(stage: Stage, run_dir: Path, inputs: Any) -> bool:
    """Whether the stage ended with these inputs, and its files are still there."""
    mark = read_mark(stage, run_dir)
    return bool(
        mark.get("state") == "finished"
        and mark["inputs"] == inputs
        and mark.get("files") == files_of(stage)
    )


def changes(stage: Stage, run_dir: Path, inputs: Any) -> str:
    """Why a stage that ran before has to run again, in a word or two; "" for a new one."""
    mark = read_mark(stage, run_dir)
    if not mark:
        return ""
    differing = sorted(_differences(mark["inputs"], inputs))
    if differing:
        return f"changed: {', '.join(differing)}"
    return "not finished" if mark["state"] != "finished" else "its files changed"


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif before != now:
        yield path


def digested(stage: Stage, context: RunContext) -> Any:
    """Everything that the stage declares, as JSON, with the digests of files."""
    return _digested(to_jsonable_python(_with_digests(stage.declared(context))))


def _with_digests(value: Any) -> Any:
    """The same with each `Files` replaced by name → sha256, or "absent"."""
    match value:
        case Files():
            # By name, and with the folders between where the files lie in several.
            top = os.path.commonpath([path.parent for path in value.paths] or [Path()])
            return {
                str(path.relative_to(top)): _sha256(path) if path.is_file() else "absent"
                for path in value.paths
            }
        case dict():
            return {key: _with_digests(each) for key, each in value.items()}
        case list() | tuple():
            return [_with_digests(each) for each in value]
        case _:
            return value


def _digested(value: Any, longest: int = 20) -> Any:
    """The same with long lists, such as all prompts, replaced by a digest: marks stay small."""
    if isinstance(value, dict):
        return {key: _digested(each) for key, each in value.items()}
    if isinstance(value, list) and len(value) > longest:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return [_digested(each) for each in value] if isinstance(value, list) else value


def files_of(stage: Stage) -> dict[str, int]:
    """Name → size of every file that the stage wrote: enough to detect a lost or cut output."""
    inside = {
        str(path.relative_to(stage.folder)): path.stat().st_size
        for path in sorted(stage.folder.rglob("*"))
        if path.is_file()
    }
    elsewhere = {
        f"../{path.name}": path.stat().st_size for path in stage.outputs_elsewhere if path.is_file()
    }
    return inside | elsewhere


def read_mark(stage: Stage, run_dir: Path) -> dict[str, Any]:
    """What the stage last declared and wrote; empty for one that never ran, or a damaged mark."""
    mark = _read_json(_mark(run_dir, stage))
    return mark if {"inputs", "state"} <= mark.keys() else {}


def _read_json(mark: Path) -> dict[str, Any]:
    """A mark's content; empty where it is missing or damaged."""
    try:
        content = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _run(stage: Stage, context: RunContext, inputs: Any) -> float:
    """Run the stage in its folder and mark it as finished; the seconds it took."""
    before, mark = read_mark(stage, context.folder), _mark(context.folder, stage)
    started = {"form": FORM, "kind": stage.kind, "inputs": inputs}
    if before.get("inputs") != inputs and not stage.keeps_its_own:
        # The mark comes first: what a kill leaves half emptied is never taken for a stage's own.
        write_json(mark, started | {"inputs": None, "state": "started"})
        _empty(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_json(mark, started | {"state": "started"})
    start = time.monotonic()
    try:
        stage.run(context)
    finally:
        give_back_freed()  # of a training of 135M weights 1.4 GiB, which the next judge needs
    seconds = time.monotonic() - start
    finished = {"state": "finished", "seconds": round(seconds, 1), "files": files_of(stage)}
    write_json(mark, started | finished)
    return seconds


def _empty(folder: Path) -> None:
    """Remove all that is in a folder, which may be a link to one on another disk."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _mark(run_dir: Path, stage: Stage) -> Path:
    return run_dir / ".stages" / f"{stage.name}.json"


def _sha256(path: Path) -> str:
    about = path.stat()
    return _sha256_of(path, about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, *unchanged: int) -> str:
    """Cached while the file is `unchanged`: many stages depend on the weights of one model."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# ── run folders ──────────────────────────────────────────────────────────────────────────────


def refuse_old_form(run_dir: Path) -> None:
    """Raises RunError for the folder of a run before recipes were graphs: its marks say too little
    about what its stages depended on to take over any of them."""
    for mark in sorted((run_dir / ".stages").glob("*.json")):
        content = _read_json(mark)
        if content and content.get("form") != FORM:
            raise RunError(
                f"{run_dir}: made by an earlier version, whose results cannot be continued; choose "
                "another folder with --out, or remove this one"
            )


def refuse_foreign(stages: Sequence[Stage], run_dir: Path) -> None:
    """Raises RunError where a stage's folder has files and no run made it: they would be lost."""
    foreign = [
        str(stage.folder)
        for stage in stages
        if not _mark(run_dir, stage).exists()
        and stage.folder.is_dir()
        and any(stage.folder.iterdir())
    ]
    if foreign:
        raise RunError(
            f"not made by a run of this recipe, which would replace their files: "
            f"{', '.join(foreign)}; move them away, or choose another folder with --out"
        )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """One run at a time per folder; the lock ends with the process, however that ends.

    Raises RunError, before anything is written, for a folder that another run uses, that an earlier
    version made, or that cannot be written.
    """
    refuse_old_form(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("w")
    except OSError as error:
        raise RunError(
            f"{run_dir}: cannot be used as a run's folder ({error.strerror}); choose another with "
            "--out"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run_dir}: another run is using this folder; wait for it, or choose another "
                "folder with --out"
            ) from error
        yield
