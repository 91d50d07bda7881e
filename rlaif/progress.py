"""Progress of long work: a bar with the time left on a terminal, occasional lines elsewhere.

    with progress("PPO", 100, "iterations") as report:
        report(3, "score 0.41", metrics={"score": 0.41, "kl_k1": 2.3})

On a terminal the latest metrics are shown in a table under the bar. Of several processes only the
first prints anything.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rlaif.time_left import TimeLeft

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_EVERY_S = 20.0
COLUMN_WIDTH = 36  # characters of a name and its value: two columns fit in 80

Metrics = Mapping[str, float | None]


class Report(Protocol):
    """The function that `progress` yields, to be called as the work proceeds."""

    def __call__(self, done: float, note: str = "", metrics: Metrics | None = None) -> None:
        """Report that `done` units are finished.

        note: a few words about them; metrics: the latest, shown on a terminal only.
        """


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Report]:
    """Show the progress of `total` units of work on stderr, through the yielded report.

    title: names the work; unit: a plural noun. Prints nothing in other processes than the first.
    """
    if os.environ.get("RANK", "0") != "0":  # this process's rank, set by torchrun
        show = _silent
    elif not sys.stderr.isatty():
        show = _lines
    else:  # nested inside other work: the outer bar stays
        show = _silent if _bar_is_shown else _bar
    with show(title, total, unit) as report:
        yield report


@contextmanager
def _silent(title: str, total: float, unit: str) -> Iterator[Report]:
    yield lambda done, note="", metrics=None: None


_bar_is_shown = False  # a terminal has room for one bar


@contextmanager
def _bar(title: str, total: float, unit: str) -> Iterator[Report]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}"),
        TextColumn("{task.fields[left]}", style="cyan"),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    task = bar.add_task(title, total=total, note="", left="")
    time_left = TimeLeft(total)
    global _bar_is_shown
    _bar_is_shown = True
    try:
        with Live(bar, console=console, refresh_per_second=4) as live:

            def report(done: float, note: str = "", metrics: Metrics | None = None) -> None:
                seconds = time_left.update(done, time.monotonic())
                left = "" if seconds is None or done >= total else f"{_duration(seconds)} left"
                bar.update(task, completed=done, note=note, left=left)
                if metrics:
                    live.update(Group(bar, metrics_table(metrics, console)))

            yield report
    finally:
        _bar_is_shown = False


def metrics_table(metrics: Metrics, console: Console) -> Table:
    """Metrics as a table of as many columns as fit the console, filled column by column."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    columns = max(1, console.width // COLUMN_WIDTH)
    cells = [(f"  {name}", format_metric(value)) for name, value in metrics.items()]
    height = math.ceil(len(cells) / columns)
    for _ in range(columns):
        table.add_column(style="dim")
        table.add_column(justify="right")
    for row in range(height):
        table.add_row(*(part for cell in cells[row::height] for part in cell))
    return table


def format_metric(value: float | None) -> str:
    """A metric with four significant digits, without trailing zeros; a dash for None."""
    return "-" if value is None else f"{value:.4g}"


@contextmanager
def _lines(title: str, total: float, unit: str) -> Iterator[Report]:
    last_printed = time.monotonic()
    time_left = TimeLeft(total)
    finished = False

    def report(done: float, note: str = "", metrics: Metrics | None = None) -> None:
        nonlocal last_printed, finished
        now = time.monotonic()
        left = time_left.update(done, now)
        if finished or (now - last_printed < LINE_EVERY_S and done < total):
            return
        last_printed, finished = now, done >= total
        parts = [f"{title}: {done:.0f}/{total:.0f} {unit}", note]
        if left is not None and done < total:
            parts.append(f"about {_duration(left)} left")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    yield report


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
