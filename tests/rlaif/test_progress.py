"""Progress: lines without a terminal, a bar and a table on one."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from rlaif.progress import COLUMN_WIDTH, format_metric, metrics_table, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_a_terminal(monkeypatch):
    """A function to call in the test itself: after fixtures, pytest restores its own stderr."""

    def replace_stderr() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        return screen

    return replace_stderr


def test_without_a_terminal_the_end_is_one_line_without_metrics(capsys):
    with progress("DPO", 3, "steps") as report:
        for step in range(4):
            report(step, f"loss {step}", metrics={"loss": float(step)})
    assert capsys.readouterr().err == "DPO: 3/3 steps, loss 3\n"


def test_on_a_terminal_the_latest_metrics_are_shown_under_the_bar(on_a_terminal):
    screen = on_a_terminal()
    with progress("DPO", 3, "steps") as report:
        report(1)
        report(3, "going", metrics={"loss": 0.123456, "accuracy": None})
    output = screen.getvalue()
    assert "3/3 steps" in output
    assert "going" in output
    assert "0.1235" in output


def test_a_nested_bar_is_not_shown_and_breaks_nothing(on_a_terminal):
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


def test_only_the_first_of_several_processes_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with progress("DPO", 1, "steps") as report:
        report(1, "done", metrics={"loss": 1.0})
    assert capsys.readouterr().err == ""


def test_the_table_fills_as_many_columns_as_fit_from_top_to_bottom():
    console = Console(width=2 * COLUMN_WIDTH, file=io.StringIO())
    console.print(metrics_table({"a": 1.0, "b": 2.0, "c": 3.0}, console))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert rows == [["a", "1", "c", "3"], ["b", "2"]]


def test_metrics_have_four_significant_digits():
    assert [format_metric(v) for v in (0.123456, 12345.6, 3, None)] == [
        "0.1235",
        "1.235e+04",
        "3",
        "-",
    ]
