"""Axes: no value is outside, noise is not blown up, and ticks are round numbers."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlaif.report.axes import AxisRange, thin_out, tick_labels, ticks, value_range

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def test_a_nearly_constant_curve_fills_only_a_part_of_the_smallest_range():
    axis = value_range([0.6931, 0.6932, 0.6930], 0.1)
    assert axis.high - axis.low >= 0.1
    assert axis.share(0.6932) - axis.share(0.6930) < 0.01


def test_a_wide_curve_has_the_range_that_it_needs():
    axis = value_range([0.0, 10.0], 0.1)
    assert (axis.low, axis.high) == pytest.approx((-0.4, 10.4))


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 0.01], [0.5, 0.55], [0.0, 1.0]])
def test_a_share_is_never_shown_on_an_axis_below_0_or_above_1(values):
    axis = value_range(values, 0.2, (0.0, 1.0))
    assert axis.low >= 0.0
    assert axis.high <= 1.0
    assert axis.high - axis.low >= 0.2


def test_a_value_outside_the_bounds_is_shown_nevertheless():
    axis = value_range([-0.5, 0.5], 0.2, (0.0, 1.0))
    assert axis.low < -0.5


@given(st.lists(NUMBERS, min_size=1), st.floats(0.01, 100))
def test_every_value_is_between_the_ends_of_its_axis(values, min_span):
    axis = value_range(values, min_span)
    assert all(0 <= axis.share(value) <= 1 for value in values)


@given(NUMBERS, st.floats(1e-3, 1e6))
def test_ticks_are_few_on_the_axis_and_told_apart(low, span):
    assume(low + span > low)
    axis = AxisRange(low, low + span)
    found = ticks(axis)
    assert 2 <= len(found) <= 9
    assert all(-0.001 <= axis.share(tick) <= 1.001 for tick in found)
    assert len(set(tick_labels(found))) == len(found)


def test_ticks_worked_by_hand():
    assert ticks(AxisRange(0.65, 0.75)) == [0.66, 0.68, 0.7, 0.72, 0.74]
    assert tick_labels([0.66, 0.68, 0.7]) == ["0.66", "0.68", "0.70"]
    assert tick_labels([-1000.0, 0.0, 1000.0]) == ["−1,000", "0", "1,000"]  # noqa: RUF001
    assert ticks(AxisRange(0.9, 3.1), smallest_step=1.0) == [1, 2, 3]


def test_thinning_keeps_the_order_and_every_spike():
    points = [(float(step), 0.0) for step in range(10_000)]
    points[1234], points[8765] = (1234.0, 50.0), (8765.0, -50.0)
    thin = thin_out(points, 400)
    assert len(thin) <= 402
    assert list(thin) == sorted(thin)
    assert {(1234.0, 50.0), (8765.0, -50.0)} <= set(thin)
    assert thin_out(points[:400], 400) == points[:400]
