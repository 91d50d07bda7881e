"""Plots of the report, as inline SVG in the colors of the page's CSS variables.

Plots are drawn in placeholder colors, which are then replaced by `var(--…)`, so that one plot
serves the light and the dark page. Text stays text: selectable, and in the page's typeface.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.reward_models import ConfidenceBin

INK, GRID, LINE, PALE = "#010203", "#040506", "#070809", "#0a0b0c"
_VARIABLES = {INK: "--muted", GRID: "--grid", LINE: "--accent", PALE: "--pale"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlaif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.constrained_layout.use": True,
}
FEW = 12  # points up to which each one gets a marker
WIDTH, HEIGHT = 4.4, 2.7  # inches: one plot fills the width of a phone


def shares_with_intervals(rows: Sequence[tuple[str, Estimate]], x_label: str) -> Markup:
    """One dot with its 95 % interval per row, in percent, and a dashed line at 50 %."""
    with rc_context(_STYLE):
        figure, axes = _axes(height=1.0 + 0.42 * len(rows))
        for y, (_, estimate) in enumerate(rows):
            if estimate.low is not None and estimate.high is not None:
                whisker = [100 * estimate.low, 100 * estimate.high]
                axes.plot(whisker, [y, y], color=LINE, linewidth=2.5, alpha=0.45)
            axes.plot([100 * estimate.value], [y], "o", color=LINE, markersize=8, clip_on=False)
        axes.axvline(50, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel=x_label)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.grid(visible=False, axis="y")
        return _svg(figure, x_label)


def histogram(values: Sequence[float], x_label: str, y_label: str) -> Markup:
    """Histogram of soft labels, in ten equal bins from 0.5 to 1."""
    with rc_context(_STYLE):
        figure, axes = _axes()
        axes.hist(values, bins=[0.5 + 0.05 * i for i in range(11)], color=LINE, rwidth=0.92)
        axes.set(xlim=(0.5, 1.0), xlabel=x_label, ylabel=y_label)
        axes.grid(visible=False, axis="x")
        axes.yaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, x_label)


Points = Sequence[tuple[float, float]]  # (step, value)


def curve(
    points: Points, x_label: str, y_label: str, level: float | None = None, heldout: Points = ()
) -> Markup:
    """A training curve: every step as a thin line, the running mean over a tenth of the run as a
    thick one, `level` as a dashed line, held-out values as dots."""
    with rc_context(_STYLE):
        figure, axes = _axes()
        steps, values = [step for step, _ in points], [value for _, value in points]
        window = max(1, len(values) // 10)
        smooth = [fmean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
        marker = "o" if len(values) <= FEW else None
        axes.plot(steps, values, color=PALE, linewidth=1, marker=marker, markersize=4)
        axes.plot(steps, smooth, color=LINE, linewidth=2, marker=marker, markersize=4)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        if heldout:
            axes.plot(*zip(*heldout, strict=True), "o", color=INK, markersize=4, label="held out")
            axes.legend(frameon=False, fontsize=9)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, f"{y_label} by {x_label}")


def reliability(bins: Sequence[ConfidenceBin], x_label: str, y_label: str) -> Markup:
    """Reliability diagram: agreement against confidence; a dot's size grows with its pairs."""
    with rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot([0.5, 1], [0.5, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        largest = max(b.pairs for b in bins)
        sizes = [30 + 150 * b.pairs / largest for b in bins]
        confidence, agreement = [b.confidence for b in bins], [b.agreement for b in bins]
        axes.scatter(confidence, agreement, s=sizes, color=LINE, alpha=0.75, linewidths=0)
        axes.set(xlim=(0.48, 1.02), xlabel=x_label, ylabel=y_label)
        return _svg(figure, f"{y_label} by {x_label}")


def _axes(height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def _svg(figure: Figure, label: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
