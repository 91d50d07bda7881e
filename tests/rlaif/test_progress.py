"""Progress: lines where there is no terminal, a bar and a table where there is one."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from rlaif import progress as shown_by
from rlaif.progress import metrics_table, progress, shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Call it in the test itself: between fixtures and test, pytest puts its own stderr back."""

    def put() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        return screen

    return put


def test_without_a_terminal_the_end_is_one_line_and_metrics_stay_out(capsys):
    with progress("DPO", 3, "steps") as report:
        for step in range(4):
            report(step, f"loss {step}", metrics={"loss": float(step)})
    assert capsys.readouterr().err == "DPO: 3/3 steps, loss 3\n"


def test_on_a_terminal_the_latest_metrics_stand_under_the_bar(on_a_terminal):
    screen = on_a_terminal()
    with progress("DPO", 3, "steps") as report:
        report(1)
        report(3, "going", metrics={"loss": 0.123456, "accuracy": None})
    seen = screen.getvalue()
    assert "3/3 steps" in seen
    assert "going" in seen
    assert "0.1235" in seen


def test_a_bar_inside_a_bar_is_not_shown_and_breaks_nothing(on_a_terminal):
    screen = on_a_terminal()
    with progress("PPO", 2, "iterations") as outer:
        outer(1)
        with progress("labels", 9, "pairs") as inner:
            inner(9, metrics={"pairs": 9.0})
        outer(2)
    assert "labels" not in screen.getvalue()
    assert "2/2 iterations" in screen.getvalue()
    with progress("DPO", 1, "steps") as report:
        report(1)
    assert "1/1 steps" in screen.getvalue()


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with progress("DPO", 1, "steps") as report:
        report(1, "done", metrics={"loss": 1.0})
    assert capsys.readouterr().err == ""


def test_the_table_is_read_downwards_in_as_many_columns_as_fit():
    console = Console(width=2 * shown_by.COLUMN_WIDTH, file=io.StringIO())
    console.print(metrics_table({"a": 1.0, "b": 2.0, "c": 3.0}, console))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert rows == [["a", "1", "c", "3"], ["b", "2"]]


def test_numbers_are_short():
    assert [shown(v) for v in (0.123456, 12345.6, 3, None)] == ["0.1235", "1.235e+04", "3", "-"]
