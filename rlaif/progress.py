"""How far long work is: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 20.0

Report = Callable[..., None]  # report(done: float, note: str = "")


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Report]:
    """Show work of `total` units on stderr; call the yielded `report(done, note)` as it goes on."""
    bar = _bar if sys.stderr.isatty() else _lines
    with bar(title, total, unit) as report:
        yield report


@contextmanager
def _bar(title: str, total: float, unit: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


@contextmanager
def _lines(title: str, total: float, unit: str) -> Iterator[Report]:
    start = spoken = time.monotonic()
    first: float | None = None
    finished = False

    def report(done: float, note: str = "") -> None:
        nonlocal spoken, first, finished
        now = time.monotonic()
        if first is None:  # what an earlier run had done says nothing of this one's speed
            first = done
        if finished or (now - spoken < LINE_EVERY_S and done < total):
            return
        spoken, finished = now, done >= total
        parts = [f"{title}: {done:.0f}/{total:.0f} {unit}", note]
        if first < done < total:
            parts.append(f"about {_duration((now - start) * (total - done) / (done - first))} left")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    yield report


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
