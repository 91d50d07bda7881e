"""Runs stages in order; a stage whose inputs did not change is skipped.

A stage is finished when `.stages/<name>.json` holds the digest of its inputs and its output files
still have their sizes. A killed run restarts at the first unfinished stage, which continues from
what it saved itself (labels, checkpoints, complete chunks of samples).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console

from constitution.errors import UserError
from rlaif.data.records import write_json


class RunError(UserError):
    """A run that cannot continue: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    `inputs()` returns everything the outcome depends on, as JSON. `folder` holds all that the stage
    writes and is emptied when the inputs change, unless `keeps_its_own`: such a stage decides item
    by item what is still valid. `minutes` is the time it took where it was measured, for the
    estimate shown to the user. `computes`: whether its time says how fast the machine is; fetching
    models does not.
    """

    name: str
    does: str
    folder: Path
    inputs: Callable[[], Any]
    run: Callable[[], None]
    minutes: float
    keeps_its_own: bool = False
    computes: bool = True


def run_stages(stages: Sequence[Stage], run_dir: Path, console: Console) -> None:
    """Run the unfinished stages in order, printing each one and about how long is left."""
    with _locked(run_dir):
        spent = foreseen = 2.0  # minutes; a prior, so that one short stage does not decide
        for place, stage in enumerate(stages, start=1):
            left = spent / foreseen * sum(later.minutes for later in stages[place - 1 :])
            head = f"[bold]{place}/{len(stages)} {stage.name}[/bold]"
            digest = input_digest(stage)
            if is_finished(stage, run_dir, digest):
                console.print(f"{head}  finished before, skipped", soft_wrap=True)
                continue
            console.print(
                f"{head}  {stage.does} [dim](about {left:.0f} min to the end)[/dim]", soft_wrap=True
            )
            seconds = _run(stage, run_dir, digest)
            if stage.computes:
                spent, foreseen = spent + seconds / 60, foreseen + stage.minutes
            console.print(f"   [dim]done in {seconds / 60:.1f} min[/dim]")


def is_finished(stage: Stage, run_dir: Path, digest: str) -> bool:
    mark = _mark(run_dir, stage)
    if not mark.is_file():
        return False
    saved = json.loads(mark.read_text(encoding="utf-8"))
    return bool(
        saved["inputs"] == digest
        and saved["state"] == "finished"
        and saved["files"] == files_in(stage.folder)
    )


def input_digest(stage: Stage) -> str:
    text = json.dumps(to_jsonable_python(stage.inputs()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(*paths: Path) -> dict[str, str]:
    """sha256 of each file, for a later stage's inputs; "absent" for a missing file."""
    return {path.name: _sha256(path) if path.is_file() else "absent" for path in paths}


def files_in(folder: Path) -> dict[str, int]:
    """Relative name → size of every file: enough to detect a lost or truncated output."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _run(stage: Stage, run_dir: Path, digest: str) -> float:
    mark = _mark(run_dir, stage)
    started_with = (
        json.loads(mark.read_text(encoding="utf-8"))["inputs"] if mark.is_file() else None
    )
    if started_with != digest and not stage.keeps_its_own:
        shutil.rmtree(stage.folder, ignore_errors=True)
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"inputs": digest, "state": "started"})
    start = time.monotonic()
    stage.run()
    seconds = time.monotonic() - start
    write_json(
        mark,
        {
            "inputs": digest,
            "state": "finished",
            "seconds": round(seconds, 1),
            "files": files_in(stage.folder),
        },
    )
    return seconds


def _mark(run_dir: Path, stage: Stage) -> Path:
    return run_dir / ".stages" / f"{stage.name}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """One run at a time per folder; the lock ends with the process, however that ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{run_dir}: another run is using this folder; wait for it, or choose another "
                "folder with --out"
            ) from error
        yield
