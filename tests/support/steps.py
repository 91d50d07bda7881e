"""Cost measured in executed lines, independent of the machine's speed and load.

A call into C (a regular expression, libyaml) counts as one step. Where such a call might be
superlinear, a test gives it an input so large that anything but linear work takes minutes, and
pytest-timeout is the bound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(work: Callable[[], object]) -> int:
    """Count the Python calls, lines, returns and exceptions while `work` runs in this thread.

    Exceptions of `work` propagate. Costs about 0.1 µs per step.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
