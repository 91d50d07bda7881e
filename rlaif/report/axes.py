"""Ranges, ticks and points of a plot's axes. Pure functions of numbers; figures.py draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Points = Sequence[tuple[float, float]]  # (x, y)

MARGIN = 0.04  # of the range, left free below the lowest value and above the highest


@dataclass(frozen=True, slots=True)
class AxisRange:
    """The lowest and highest number on an axis, low < high."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where on the axis a value is: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def value_range(
    values: Sequence[float], min_span: float, bounds: tuple[float, float] | None = None
) -> AxisRange:
    """The range that shows all values, at least `min_span` wide: noise is not blown up.

    bounds: the lowest and highest value possible, such as (0, 1) for a share; the range stays
    within them unless a value lies outside.
    """
    low, high = min(values), max(values)
    span = max(high - low, min_span) * (1 + 2 * MARGIN)
    middle = (low + high) / 2
    wanted = AxisRange(middle - span / 2, middle + span / 2)
    if bounds is None or low < bounds[0] or high > bounds[1]:
        return wanted
    # a range that is too far to one side is shifted first, then cut
    shifted_low = min(max(wanted.low, bounds[0]), max(bounds[0], bounds[1] - span))
    return AxisRange(shifted_low, min(shifted_low + span, bounds[1]))


def ticks(axis: AxisRange, smallest_step: float = 0.0) -> list[float]:
    """Round numbers on the axis, 1, 2 or 5 times a power of ten apart: 3 to 8 of them.

    smallest_step: 1 for an axis of whole numbers, which may then have fewer.
    """
    widest = (axis.high - axis.low) / 3
    power = 10.0 ** math.floor(math.log10(widest))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= widest * 1.001)
    step = max(step, smallest_step)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The ticks as text, all with the decimals that tell neighbors apart."""
    steps = [b - a for a, b in pairwise(values)]
    step = min(steps, default=abs(values[0]) if values and values[0] else 1.0)
    decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
    return [f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for value in values]


def thin_out(points: Points, most: int = 400) -> Points:
    """At most about `most` of the points, in order, with every peak and trough of the others."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        extremes = {min(group, key=_y), max(group, key=_y)}
        kept += sorted(extremes)
    return kept


def _y(point: tuple[float, float]) -> float:
    return point[1]
