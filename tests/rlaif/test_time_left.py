"""The estimated time left of work whose speed is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.time_left import TimeLeft


def test_the_estimate_is_exact_for_steady_work():
    left = TimeLeft(100)
    assert left.update(0, 0.0) is None
    assert left.update(50, 10.0) == 10.0
    assert left.update(75, 15.0) == pytest.approx(5.0)
    assert left.update(100, 20.0) == 0.0


def test_units_finished_before_the_start_do_not_count_as_speed():
    """Twelve labels of an earlier run at once, then one every ten seconds."""
    left = TimeLeft(44)
    left.update(12, 0.0)
    for done in range(13, 30):
        estimate = left.update(done, 10.0 * (done - 12))
        assert estimate == pytest.approx(10.0 * (44 - done))


def test_a_burst_at_the_start_is_forgotten():
    """Thirty reads come out of a store within a second; each of the others takes ten seconds."""
    left = TimeLeft(60)
    for done in range(31):
        left.update(done, done / 30)
    estimates = {done: left.update(done, 1 + 10.0 * (done - 30)) for done in range(31, 60)}
    for done in range(33, 60):
        assert 0.5 <= estimates[done] / (10.0 * (60 - done)) <= 2.0


@given(st.lists(st.floats(0.5, 1.5), min_size=8, max_size=200), st.integers(0, 1000))
def test_the_estimate_stays_within_the_observed_speeds(seconds, before):
    """Units take 0.5 to 1.5 s, in whatever order."""
    left, now = TimeLeft(before + len(seconds)), 0.0
    left.update(before, now)
    for done, took in enumerate(seconds, start=1):
        now += took
        estimate = left.update(before + done, now)
        remaining = len(seconds) - done
        assert estimate is not None
        assert 0.5 * remaining - 1e-6 <= estimate <= 1.5 * remaining + 1e-6


def test_long_work_keeps_few_samples():
    left = TimeLeft(1e6)
    for done in range(20_000):
        left.update(done, done / 10)
    assert len(left._samples) <= 70
