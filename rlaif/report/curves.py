"""Training curves of a metrics.jsonl for the report, and the alarms that rang in it.

Every metric is defined where its trainer logs it; here stands what good looks like.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.report import figures

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of metrics.jsonl: how its axis is called, and what good looks like."""

    metric: str
    y_label: str
    good: str
    level: float | None = None  # a line to compare with
    heldout: str = ""  # the same on records that are not trained on, drawn as dots


LENGTH = Curve(
    "response_length",
    "response length (tokens)",
    "Steady. If it grows together with the score, the reward model pays for length.",
)
ENDED = Curve("eos_rate", "ended by itself (share)", "High and steady: responses are not cut off.")
DISTINCT = Curve(
    "distinct_2",
    "distinct-2 (share)",
    "Steady. A fall means that responses grow alike: mode collapse.",
)

SFT = (
    Curve(
        "loss",
        "loss (nats per token)",
        "Falls. Dots, where there are any, are held-out responses: when they turn up, the rest is "
        "learned by heart.",
        heldout="heldout_loss",
    ),
)
REWARD = (
    Curve(
        "loss",
        "loss (nats)",
        "Falls below the dashed line (log 2: knows nothing). It cannot fall below the entropy of "
        "the soft labels.",
        level=math.log(2),
        heldout="heldout_loss",
    ),
    Curve(
        "accuracy",
        "accuracy on the batch (share)",
        "Rises above one half.",
        level=0.5,
        heldout="heldout_accuracy",
    ),
)
DPO = (
    Curve(
        "loss",
        "loss (nats)",
        "With the sigmoid losses it starts at log 2 (dashed: policy = reference) and falls "
        "slowly. A fall to 0 means the pairs are learned by heart.",
        level=math.log(2),
        heldout="heldout_loss",
    ),
    Curve(
        "margin",
        "reward margin (nats)",
        "Rises: chosen gains on rejected.",
        level=0.0,
        heldout="heldout_margin",
    ),
    Curve(
        "accuracy",
        "chosen above rejected (share)",
        "Rises above one half. It starts near 0, where both are equal.",
        level=0.5,
        heldout="heldout_accuracy",
    ),
    Curve(
        "chosen_reward",
        "reward of the chosen (nats)",
        "Steady or rising. Falling far below 0: both responses are made unlikely, the rejected "
        "only more so.",
        level=0.0,
    ),
)
PPO = (
    Curve(
        "score",
        "reward model's score",
        "Rises. Each trait counts in standard deviations of its scores on the training responses.",
    ),
    Curve(
        "judge_score",
        "judge: P(better than the start)",
        "Rises above one half, together with the score. Where the score goes on and this does not, "
        "the reward model is overoptimized.",
        level=0.5,
    ),
    Curve(
        "kl_k1",
        "KL to the reference, k1 (nats)",
        "Grows slowly and stays small. A steep climb means that the policy games the reward model.",
        level=0.0,
    ),
    LENGTH,
    Curve(
        "entropy",
        "entropy (nats per token)",
        "Falls slowly. Near 0 the policy says the same every time.",
    ),
    ENDED,
    DISTINCT,
    Curve(
        "clip_fraction",
        "clipped tokens (share)",
        "Under about 0.2. More means that the steps are too large.",
    ),
    Curve(
        "explained_variance",
        "value head: explained variance",
        "Rises from about 0 towards 1. Below 0 the value head is worse than a constant.",
        level=0.0,
    ),
    Curve("loss", "loss", "No sign of success by itself; spikes show steps that were too large."),
)
REST = (
    Curve(
        "score",
        "reward model's score of what was grown",
        "Rises from one Grow step to the next: each stair is a Grow.",
    ),
    Curve(
        "threshold",
        "threshold of what is kept",
        "Rises within a Grow step, and from one to the next.",
    ),
    Curve("loss", "loss (nats per token)", "Falls within an Improve step."),
    LENGTH,
    ENDED,
    DISTINCT,
)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def plots(rows: Rows | None, wanted: Sequence[Curve]) -> list[dict[str, Any]] | None:
    """The plots of those metrics that the rows have; None without any."""
    found = []
    for curve in wanted if rows else ():
        points = _points(rows or (), curve.metric)
        if points:
            beside = _points(rows or (), curve.heldout) if curve.heldout else []
            svg = figures.curve(points, "training step", curve.y_label, curve.level, beside)
            found.append({"title": curve.y_label, "plot": svg, "good": curve.good})
    return found or None


def _points(rows: Rows, metric: str) -> list[tuple[float, float]]:
    """(step, value) where the metric is a number."""
    return [
        (row.get("step", number), row[metric])
        for number, row in enumerate(rows, start=1)
        if _is_number(row.get(metric))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def alarms(rows: Rows | None) -> list[str]:
    """Each alarm with its first step and how many steps it rang; alarms.py says what they mean.

    And the steps after which PPO went back to its best judged policy (guard.py).
    """
    rang: dict[str, list[float]] = {}
    back: list[float] = []
    for number, row in enumerate(rows or (), start=1):
        step = row.get("step", number)
        for name in row.get("alarms") or ():
            rang.setdefault(name, []).append(step)
        if row.get("rollback"):
            back.append(step)
    found = [
        f"{name.replace('_', ' ')}: from step {steps[0]:g} on, at {len(steps)} of {len(rows or ())}"
        for name, steps in rang.items()
    ]
    if back:
        steps = ", ".join(f"{step:g}" for step in back)
        found.append(f"back to the best judged policy after step {steps}")
    return found
