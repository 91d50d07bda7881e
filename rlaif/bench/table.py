"""Results for the terminal: a table per file and what it means, then all files at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif.bench.obedience import Obedience
from rlaif.bench.result import BenchResult
from rlaif.report.formats import format_number, format_signed
from rlaif.terminal_tables import print_table

if TYPE_CHECKING:
    from rich.console import Console

MOST_GROUPS = 12  # that are shown, the largest; all are in bench.json


def print_result(result: BenchResult, console: Console) -> None:
    """Print a file's result: figures beside floors, verdict, length, obedience and cost."""

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    line(_heading(result))
    names = [floor.name for floor in result.floors]
    groups = [figure for figure in result.figures if figure.level == "group"]
    large = groups[:MOST_GROUPS]
    shown = [figure for figure in result.figures if figure.level != "group"]
    rows = [
        [
            figure.name, str(figure.questions), format_number(figure.estimate),
            *(_share(floor.value if figure.level == "overall" else floor.groups.get(figure.name))
              for floor in result.floors),
        ]
        for figure in (*shown, *large)
    ]  # fmt: skip
    headings = ["", "questions", "accuracy [95 %]", *names]
    print_table(console, headings, rows, folded=[""])
    if len(groups) > len(large):
        line(f"smaller groups, not shown: {len(groups) - len(large)} (--json has them)")
    line(f"verdict: {result.verdict}")
    for text in (_length(result), _position(result), _cost(result), *result.notes):
        if text:
            line(text)
    if result.obedience:
        _print_obedience(result.obedience, console)


def print_overview(results: Sequence[BenchResult], console: Console) -> None:
    """Print one row per file: accuracy, the best floor, length, position and obedience."""
    rows = []
    for each in results:
        best = max(each.floors, key=lambda floor: floor.value)
        chosen, right = each.length.longer_chosen, each.length.longer_right
        slope = each.length.slope
        obeyed = each.obedience[0] if each.obedience else None
        rows.append(
            [
                Path(each.file).name,
                format_number(each.overall),
                f"{best.value:.2f} {best.name}",
                "-"
                if chosen is None or right is None
                else f"{chosen.value:.2f} ({right.value:.2f})",
                "-" if slope is None else format_signed(slope),
                "-" if each.consistent is None else f"{each.consistent.value:.2f}",
                "-" if obeyed is None else f"{obeyed.inverted.value:.2f} ({obeyed.follower:.2f})",
            ]
        )
    headings = [
        "file", "accuracy [95 %]", "best floor", "longer chosen (right)", "slope", "orders agree",
        "inverted (if followed)",
    ]  # fmt: skip
    print_table(console, headings, rows, folded=["file"])


def _heading(result: BenchResult) -> str:
    parts = [f"{Path(result.file).name} ({result.format}), {result.answered_by}"]
    for what, counts in (("unanswered", result.unanswered), ("left out", result.left_out)):
        if counts:
            reasons = ", ".join(f"{n} {reason}" for reason, n in counts.items())
            parts.append(f"{what} {sum(counts.values())} ({reasons})")
    return "; ".join(parts)


def _length(result: BenchResult) -> str:
    found = result.length
    if found.longer_chosen is None or found.longer_right is None:
        return "length: no pair differs in length"
    text = (
        f"length: the longer is chosen in {format_number(found.longer_chosen)} and right in "
        f"{found.longer_right.value:.2f}"
    )
    if found.slope is not None:
        text += f"; slope {format_signed(found.slope)} per ln(length ratio)"
    if found.correlation is not None:
        text += f", r {found.correlation:+.2f}"
    return text


def _position(result: BenchResult) -> str:
    if result.consistent is None:
        return ""
    return f"position: both orders agree in {format_number(result.consistent)}"


def _cost(result: BenchResult) -> str:
    cost = result.cost
    answered = result.questions - sum(result.unanswered.values())
    text = f"cost: {cost.reads} reads"
    if cost.stored_reads:
        text += f" and {cost.stored_reads} stored"
    if cost.prompt_tokens:
        text += f", {cost.prompt_tokens} prompt tokens"
    if cost.seconds is not None:
        text += f", {cost.seconds:.0f} s ({cost.seconds / max(1, answered):.2f} s a question)"
    return text


def _print_obedience(figures: tuple[Obedience, ...], console: Console) -> None:
    rows = [
        [
            each.principle, str(each.pairs),
            format_number(each.accuracy), format_number(each.inverted),
            f"{each.follower:.2f}", format_number(each.turned),
        ]
        for each in figures
    ]  # fmt: skip
    headings = ["principle", "pairs", "accuracy [95 %]", "inverted", "if it followed", "turned"]
    print_table(console, headings, rows, folded=["principle"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
