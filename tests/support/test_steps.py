"""The step count depends on the work and on nothing else."""

from __future__ import annotations

import sys

import pytest

from tests.support.steps import steps


def loop(rounds: int) -> None:
    for _ in range(rounds):
        pass


def test_steps_are_the_same_each_time_and_grow_with_the_work() -> None:
    once, again, twice = (steps(lambda n=n: loop(n)) for n in (1000, 1000, 2000))
    assert once == again
    assert twice - once == pytest.approx(once, rel=0.02)


def test_steps_count_loops_inside_one_line() -> None:
    assert steps(lambda: sum(1 for _ in range(500))) > 500


def test_steps_restore_the_trace_function_if_the_work_raises() -> None:
    before = sys.gettrace()
    with pytest.raises(ZeroDivisionError):
        steps(lambda: 1 / 0)
    assert sys.gettrace() is before
