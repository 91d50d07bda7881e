"""Learning-rate schedules: the share of the peak rate at a step.

    w = max(1, ⌈warmup·T⌉)    the peak step, of T steps, counted from 1
    factor(s) = s / w                                  s ≤ w: a linear rise; at step w exactly 1
    linear      1 - x                                  x = (s - w) / (T + 1 - w), after w
    cosine      ½ (1 + cos πx)                         Eq. 5, arXiv:1608.03983, without restarts
    wsd         1 until step T + 1 - D, then 1 - √x    x = (s - (T + 1 - D)) / D, D = ⌈cooldown·T⌉
                                                       arXiv:2405.18392, section 3; its WSD is
                                                       warmup, stable, decay
    constant    1

They are transformers' schedules over T + 1 steps without the first, whose rate is 0: every step
here moves the weights, the last one too. A factor depends on the step only: nothing is saved.
Imports no torch: settings read the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

Schedule = Literal["linear", "cosine", "wsd", "constant"]

# (steps after the peak step, steps from the peak to one past the last, cooldown steps) → factor
Decay = Callable[[int, int, int], float]


def _linear(after: int, span: int, _cooldown: int) -> float:
    return 1 - after / span


def _cosine(after: int, span: int, _cooldown: int) -> float:
    return (1 + math.cos(math.pi * after / span)) / 2


def _wsd(after: int, span: int, cooldown: int) -> float:
    length = min(cooldown, span)
    falling = after - (span - length)  # steps since the last one at the peak rate
    return 1 - math.sqrt(falling / length) if falling > 0 else 1.0


def _constant(_after: int, _span: int, _cooldown: int) -> float:
    return 1.0


SCHEDULES: Mapping[Schedule, Decay] = {
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _wsd,
    "constant": _constant,
}


def rate_factor(
    schedule: Schedule, step: int, total: int, warmup: float, cooldown: float = 0.0
) -> float:
    """Share of the peak rate at a step, in (0, 1]; exactly 1 at the end of the warmup.

    step: from 1 to total. warmup, cooldown: shares of the total (cooldown: wsd only).

    >>> [rate_factor("linear", step, 5, warmup=0.4) for step in range(1, 6)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    peak = max(1, math.ceil(warmup * total))
    if step <= peak:
        return step / peak
    return SCHEDULES[schedule](step - peak, total + 1 - peak, math.ceil(cooldown * total))
