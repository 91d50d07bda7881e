"""Cost as a count of executed lines, which does not depend on how fast or busy the machine is.

Work done inside one call into C (a regular expression, libyaml) is one step here. Where such a call
may explode, a test gives it an input so large that anything but linear work takes minutes, and
pytest-timeout is the bound.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(work: Callable[[], object]) -> int:
    """The calls, lines and returns of Python that `work` runs in this thread, exceptions included.

    An exception of `work` is the caller's to catch. About 0.1 µs a step.
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
