"""A calibration report for the terminal: metrics before and after, and the selected curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from judge_service.judge.calibration import Isotonic, Temperature
from rlaif.labels.calibrate import (
    FEWEST_PAIRS_ISOTONIC,
    ISOTONIC,
    NONE,
    CalibrationReport,
)

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: CalibrationReport, console: Console) -> None:
    """Print the metrics on held-back pairs, and which curve was selected and why."""
    from rich.table import Table

    # Only ECE and NLL have an interval: they are what the curve is selected and trusted by.
    choice = report.choice
    table = Table(
        f"{report.judged} pairs on {report.prompts} prompts, {report.folds} folds held back",
        "before",
        "after",
        "change, 95 % interval",
    )
    rows = (
        ("accuracy", choice.before.accuracy, choice.after.accuracy, None),
        ("ECE", choice.before.ece, choice.after.ece, choice.ece_change),
        ("ECE, bins of equal mass", choice.before.adaptive_ece, choice.after.adaptive_ece, None),
        ("Brier", choice.before.brier, choice.after.brier, None),
        ("NLL", choice.before.nll, choice.after.nll, choice.nll_change),
    )
    for name, before, after, change in rows:
        shown = f"{change.value:+.3f}  [{change.low:+.3f}, {change.high:+.3f}]" if change else ""
        table.add_row(name, f"{before:.3f}", f"{after:.3f}", shown)
    console.print(table, markup=False)
    console.print(
        f"accuracy of always picking the longer response: {report.pick_longer:.1%}; an ECE of "
        f"{choice.chance_ece:.3f} is expected by chance with this number of pairs",
        highlight=False,
    )
    if report.unjudged_by_reason:
        counts = ", ".join(f"{reason} {n}" for reason, n in report.unjudged_by_reason.items())
        console.print(f"{report.pairs - report.judged} pairs without a judgment: {counts}")
    console.print(explain(report), highlight=False)


def explain(report: CalibrationReport) -> str:
    """Which curve was selected, and why, in a sentence or two."""
    choice = report.choice
    match choice.curve:
        case Isotonic(knots=knots):
            curve = f"isotonic, {len(knots)} knots"
        case Temperature() if choice.method == NONE:
            curve = "none (T = 1), which leaves the probabilities unchanged"
        case Temperature(temperature=temperature):
            curve = f"temperature, T = {temperature:.2f}"
    losses = ", ".join(f"{method} {loss:.4f}" for method, loss in choice.held_back_nll.items())
    text = f"selected: {curve}; it has the lowest NLL on the held-back folds ({losses})"
    if ISOTONIC not in choice.held_back_nll:
        text += f". Isotonic curves are tried from {FEWEST_PAIRS_ISOTONIC} judged pairs on"
    return text
