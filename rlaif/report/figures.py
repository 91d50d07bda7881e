"""Plots of the report, as inline SVG.

Colors come from the page's style sheet (templates/page.css) by class, so that one plot serves the
light and the dark page. Titles, legends and captions are text of the page, outside the drawing:
they fold on a narrow screen and never lie over the data. Nothing is clipped: ranges hold all
values, and margins hold the widest label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup, escape

from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.reward_models import ConfidenceBin
from rlaif.report.axes import AxisRange, Points, thin_out, tick_labels, ticks, value_range

WIDTH, HEIGHT = 420, 230  # SVG units; about pixels on a phone
CHARACTER = 7.8  # units: the widest digit in the widest of common fonts, at the size of the labels
BELOW = 46  # units below the x axis: tick labels and the axis's name
FEW = 12  # points up to which each one gets a marker


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with its words. legend: (class of the style sheet, what it stands for)."""

    title: str
    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IntervalBar:
    """A share with its 95 % interval, in percent of the bar's width."""

    name: str
    value: float
    low: float | None
    width: float | None
    text: str


def interval_bars(rows: Iterable[tuple[str, Estimate | None]]) -> list[IntervalBar]:
    """One bar for each row that was measured; the page draws them (macro `bars`)."""
    return [_interval_bar(name, estimate) for name, estimate in rows if estimate]


def _interval_bar(name: str, estimate: Estimate) -> IntervalBar:
    value = 100 * estimate.value
    if estimate.low is None or estimate.high is None:
        return IntervalBar(name, value, None, None, f"{value:.0f} %")
    low, high = 100 * estimate.low, 100 * estimate.high
    return IntervalBar(name, value, low, high - low, f"{value:.0f} % [{low:.0f}, {high:.0f}]")


def curve(
    points: Points,
    x_label: str,
    name: str,
    *,
    min_span: float,
    bounds: tuple[float, float] | None = None,
    level: float | None = None,
    heldout: Points = (),
) -> tuple[Markup, tuple[tuple[str, str], ...]]:
    """(drawing, legend) of a training curve.

    Every step as a thin line, the running mean over a tenth of the run as a thick one, `level` as
    a dashed line, held-out values as dots. min_span, bounds: see `axes.value_range`.
    """
    smooth = _running_mean(points)
    # the ranges hold everything that is drawn, the dashed line included
    values = [y for _, y in (*points, *heldout)]
    y_axis = value_range([*values, *(() if level is None else (level,))], min_span, bounds)
    x_axis = value_range([x for x, _ in (*points, *heldout)], 1.0)
    frame = _Frame.around(x_axis, y_axis, whole_x=True)
    # the thin line first, so that the running mean and the dots lie over it
    marks = [frame.line(thin_out(points), "pale"), frame.line(thin_out(smooth), "accent")]
    legend = [("accent", "running mean"), ("pale", "each step")]
    if smooth == points:  # a short run: nothing to average
        legend = [("accent", "each step")]
    if len(points) <= FEW:
        marks += [frame.dot(point, "accent") for point in points]
    if level is not None:
        marks.append(frame.line([(x_axis.low, level), (x_axis.high, level)], "level"))
        legend.append(("level", f"{level:.2g}"))
    if heldout:
        marks += [frame.dot(point, "heldout") for point in heldout]
        legend.append(("heldout", "held out"))
    first, last = points[0], points[-1]
    x = x_label.split()[-1]  # "step" of "training step"
    label = f"{name}: {first[1]:.3g} at {x} {first[0]:g}, {last[1]:.3g} at {x} {last[0]:g}"
    return frame.svg(marks, x_label, label), tuple(legend)


def _running_mean(points: Points) -> Points:
    """The mean over the last tenth of the run; the points themselves where that is one step."""
    window = len(points) // 10
    if window <= 1:
        return points
    return [
        (step, fmean(y for _, y in points[max(0, place + 1 - window) : place + 1]))
        for place, (step, _) in enumerate(points)
    ]


def histogram(values: Sequence[float], x_label: str) -> Markup:
    """Histogram of soft labels: ten equal bins from ½ (from 0 if a value is below ½) to 1."""
    low = 0.5 if min(values) >= 0.5 else 0.0
    width = (1 - low) / 10
    counts = [0] * 10
    for value in values:
        counts[min(9, int((value - low) / width + 1e-9))] += 1
    y_axis = AxisRange(0.0, 1.05 * max(counts))
    frame = _Frame.around(AxisRange(low, 1.0), y_axis, whole_y=True)
    marks = [
        frame.bar(low + place * width, low + (place + 1) * width, count)
        for place, count in enumerate(counts)
    ]
    return frame.svg(marks, x_label, f"{len(values)} values of {x_label}, in ten bins: {counts}")


def reliability(bins: Sequence[ConfidenceBin], x_label: str) -> Markup:
    """Reliability diagram: agreement against confidence; a dot's area grows with its pairs."""
    lowest = min([0.5, *(b.agreement for b in bins)])
    frame = _Frame.around(value_range([0.5, 1.0], 0.5), value_range([lowest, 1.0], 0.5))
    marks = [frame.line([(0.5, 0.5), (1.0, 1.0)], "level")]
    largest = max(b.pairs for b in bins)
    for b in bins:
        radius = 3 + 6 * (b.pairs / largest) ** 0.5
        tip = f"{b.pairs} pairs: confidence {b.confidence:.2f}, agreement {b.agreement:.2f}"
        marks.append(frame.dot((b.confidence, b.agreement), "accent", radius, tip))
    return frame.svg(marks, x_label, f"agreement by {x_label}, {len(bins)} bins")


def scatter(rows: Sequence[tuple[str, float, Estimate]], x_label: str) -> Markup:
    """Shares with their intervals against a number of each, which is at least 0: (name, x, share).

    Names stand beside the dots, one below the other where dots are close.
    """
    points = [(x, 100 * share.value) for _, x, share in rows]
    bounds = [
        (100 * (share.value if share.low is None else share.low),
         100 * (share.value if share.high is None else share.high))
        for _, _, share in rows
    ]  # fmt: skip
    x_axis = AxisRange(0.0, 1.08 * max([x for x, _ in points] + [1e-9]))
    values = [50.0, *(y for pair in bounds for y in pair)]
    frame = _Frame.around(x_axis, value_range(values, 20.0, (0.0, 100.0)))
    marks = [frame.line([(x_axis.low, 50.0), (x_axis.high, 50.0)], "level")]
    for (x, _), (low, high) in zip(points, bounds, strict=True):
        marks.append(frame.line([(x, low), (x, high)], "pale"))
    taken: list[tuple[float, float]] = []
    for (name, *_), point in sorted(zip(rows, points, strict=True), key=lambda each: -each[1][1]):
        marks.append(frame.dot(point, "accent", 4.5, f"{name}: {point[0]:.3g}, {point[1]:.0f} %"))
        (x, y), left = frame.at(*point), frame.x.share(point[0]) > 0.75
        while any(abs(x - a) < 90 and abs(y - b) < 14 for a, b in taken):
            y += 14
        taken.append((x, y))
        marks.append(_text(x - 9 if left else x + 9, y + 4, name, "end" if left else "start"))
    label = "; ".join(f"{n}: {x:.3g}, {100 * s.value:.0f} %" for n, x, s in rows)
    return frame.svg(marks, x_label, label)


# ── drawing ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Frame:
    """The axes of a plot, and where values lie between them, in SVG units."""

    x: AxisRange
    y: AxisRange
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    left: float
    right: float

    @classmethod
    def around(
        cls, x: AxisRange, y: AxisRange, *, whole_x: bool = False, whole_y: bool = False
    ) -> _Frame:
        """Axes with margins wide enough for their labels. whole_x, whole_y: no fractions."""
        x_ticks = ticks(x, smallest_step=1.0 if whole_x else 0.0)
        y_ticks = ticks(y, smallest_step=1.0 if whole_y else 0.0)
        longest = max(map(len, tick_labels(y_ticks)), default=1)
        last = len(tick_labels(x_ticks)[-1]) if x_ticks else 1
        return cls(x, y, x_ticks, y_ticks, 14 + CHARACTER * longest, 8 + CHARACTER * last / 2)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = WIDTH - self.left - self.right
        down = HEIGHT - BELOW - 10
        return self.left + across * self.x.share(x), 10 + down * (1 - self.y.share(y))

    def line(self, points: Points, style: str) -> str:
        places = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)
        return f'<polyline class="{style}" points="{places}"/>'

    def dot(
        self, point: tuple[float, float], style: str, radius: float = 3.5, tip: str = ""
    ) -> str:
        x, y = self.at(*point)
        shown = escape(tip or f"{point[0]:g}: {point[1]:.3g}")
        circle = f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        return f"{circle}<title>{shown}</title></circle>"

    def bar(self, start: float, end: float, count: int) -> str:
        (x, top), (right, base) = self.at(start, count), self.at(end, 0)
        rectangle = (
            f'<rect class="accent" x="{x + 1.5:.1f}" y="{top:.1f}" '
            f'width="{right - x - 3:.1f}" height="{base - top:.1f}">'
        )
        return f"{rectangle}<title>{start:.2f} to {end:.2f}: {count}</title></rect>"

    def svg(self, marks: Iterable[str], x_label: str, label: str) -> Markup:
        """The whole drawing: grid and tick labels, then the marks over them."""
        parts = []
        base, end = HEIGHT - BELOW, WIDTH - self.right
        for value, text in zip(self.y_ticks, tick_labels(self.y_ticks), strict=True):
            _, y = self.at(self.x.low, value)
            parts += [_segment("grid", self.left, y, end, y), _text(self.left - 7, y + 4, text)]
        parts.append(_segment("tick", self.left, base, end, base))
        for value, text in zip(self.x_ticks, tick_labels(self.x_ticks), strict=True):
            x, _ = self.at(value, self.y.low)
            parts += [_segment("tick", x, base, x, base + 4), _text(x, base + 18, text, "middle")]
        parts.append(_text((self.left + end) / 2, HEIGHT - 8, x_label, "middle"))
        drawing = "".join([*parts, *marks])
        return Markup(
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">{drawing}</svg>'
        )


def _segment(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
