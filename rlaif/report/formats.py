"""Estimates as text, with their 95 % interval in square brackets."""

from __future__ import annotations

from collections.abc import Callable

from rlaif.evaluation.intervals import Estimate

NO_VALUE = "—"  # nothing to measure, or not measured


def format_percent(estimate: Estimate | None) -> str:
    """A share in percent: 66 % [48, 80]"""
    return formatted(estimate, lambda x: f"{100 * x:.0f}", " %")


def format_number(estimate: Estimate | None) -> str:
    """Two decimals: 0.52 [0.49, 0.56]"""
    return formatted(estimate, lambda x: f"{x:.2f}")


def format_signed(estimate: Estimate | None) -> str:
    """Two decimals with a sign: +0.03 [-0.35, +0.41]; rounding errors have no sign of their own."""
    return formatted(estimate, lambda x: f"{round(x, 9) + 0.0:+.2f}")  # -0.0 + 0.0 = 0.0


def formatted(estimate: Estimate | None, number: Callable[[float], str], unit: str = "") -> str:
    """An estimate and its interval, each number as `number` writes it; NO_VALUE for None."""
    if estimate is None:
        return NO_VALUE
    text = number(estimate.value) + unit
    if estimate.low is not None and estimate.high is not None:
        text += f" [{number(estimate.low)}, {number(estimate.high)}]"
    return text
