"""Tables at any width: names are folded, numbers stay whole, and nothing is cut."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from rlaif.terminal_tables import print_table

HEADINGS = ("principle", "trait", "P(A better)", "agrees")
NAMES = ("promises-only-what-is-known", "x" * 64, "calm")
ROWS = [(name, "helpful", "0.812", "57% [42%, 71%]") for name in NAMES]


def printed(width: int, **options: object) -> list[str]:
    out = io.StringIO()
    arguments = {"folded": {"principle", "trait"}, **options}
    console = Console(file=out, width=width)
    print_table(console, HEADINGS, ROWS, **arguments)  # type: ignore[arg-type]
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 30, 40, 52, 60, 80, 120, 200])
def test_nothing_is_cut_or_wider_than_the_terminal(width: int) -> None:
    rows = printed(width)
    assert max(map(len, rows)) <= width
    assert "…" not in "".join(rows)
    assert "".join(rows).count("0.812") == 3
    if "┃" in rows[1]:
        columns = [row.split("│")[1].strip() for row in rows if row.startswith("│")]
        shown = "".join(columns)
    else:
        shown = re.sub(r"\s", "", "".join(row for row in rows if not row.startswith("  ")))
    assert shown == "".join(NAMES)


def test_a_wide_terminal_shows_one_line_for_each_row() -> None:
    rows = [row for row in printed(140) if row.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == list(NAMES)


def test_names_are_folded_after_hyphens() -> None:
    rows = [row.split("│")[1].strip() for row in printed(60) if row.startswith("│")]
    assert rows[:2] == ["promises-only-what-", "is-known"]


def test_a_terminal_without_room_for_the_columns_shows_paragraphs() -> None:
    rows = [row.rstrip() for row in printed(40)]
    assert rows[:4] == [
        "promises-only-what-is-known",
        "  trait: helpful; P(A better): 0.812",
        "  agrees: 57% [42%, 71%]",
        "x" * 40,
    ]


@pytest.mark.parametrize("width", [40, 120])
def test_a_total_is_the_last_row(width: int) -> None:
    rows = printed(width, total=("all together", "", "0.900", ""))
    assert (
        [row for row in rows if "all together" in row or "calm" in row][-1]
        .strip("│ ")
        .startswith("all together")
    )
    assert sum("├" in row for row in rows) == (width == 120)


def test_brackets_are_text_and_styles_are_kept() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    row = ("[bold]", Text("passed", style="green"))
    print_table(console, ("name", "result"), [row], folded={"name"})
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "[bold]" in file.getvalue()
    assert "\x1b[32mpassed" in file.getvalue()


def test_rows_that_continue_the_one_above_have_no_name_in_a_paragraph() -> None:
    out = io.StringIO()
    rows = [("calm", "AB", "0.9"), ("", "BA", "0.8")]
    print_table(
        Console(file=out, width=12), ("principle", "order", "P"), rows, folded={"principle"}
    )
    assert [row.rstrip() for row in out.getvalue().splitlines()] == [
        "calm", "  order: AB", "  P: 0.9", "  order: BA", "  P: 0.8",
    ]  # fmt: skip
