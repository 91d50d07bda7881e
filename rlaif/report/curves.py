"""Training curves and alarms of a metrics.jsonl, for the report.

Every metric is defined in the trainer that logs it; the captions here say what good looks like.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.report import figures
from rlaif.report.axes import Points

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Curve:
    """How a metric of metrics.jsonl is plotted."""

    metric: str
    y_label: str
    caption: str  # what good looks like
    min_span: float  # of the y axis: a smaller range would show noise as if it were a trend
    bounds: tuple[float, float] | None = None  # the lowest and highest value possible
    level: float | None = None  # of a dashed reference line
    heldout: str = ""  # the metric's name on held-out records, drawn as dots


SHARE = (0.0, 1.0)


LENGTH = Curve(
    "response_length",
    "response length (tokens)",
    "Steady. If it grows with the score, the reward model rewards length.",
    min_span=20,
)
ENDED = Curve(
    "eos_rate",
    "complete responses (share)",
    "High and steady: responses are not cut off.",
    min_span=0.2,
    bounds=SHARE,
)
DISTINCT = Curve(
    "distinct_2",
    "distinct-2 (share)",
    "Steady. A fall means that responses become more alike: mode collapse.",
    min_span=0.2,
    bounds=SHARE,
)

FORGETTING = Curve(
    "text_nll_rise",
    "loss on held-out plain text, above the start's (share)",
    "Near the dashed line (the start). Above 0.02 the policy forgets ordinary language: mix in "
    "plain text, or train less.",
    min_span=0.05,
    level=0.0,
)

SFT = (
    Curve(
        "loss",
        "loss (nats per token)",
        "Falls. Dots, if any, are the loss on held-out responses: when it rises, the model is "
        "overfitting.",
        min_span=0.2,
        heldout="heldout_loss",
    ),
    FORGETTING,
)
REWARD = (
    Curve(
        "loss",
        "loss (nats)",
        "Falls below the dashed line (log 2: a model that has learned nothing). It cannot fall "
        "below the entropy of the soft labels.",
        min_span=0.1,
        level=math.log(2),
        heldout="heldout_loss",
    ),
    Curve(
        "accuracy",
        "accuracy on the batch (share)",
        "Rises above one half.",
        min_span=0.4,
        bounds=SHARE,
        level=0.5,
        heldout="heldout_accuracy",
    ),
)
DPO = (
    Curve(
        "loss",
        "loss (nats)",
        "With the sigmoid losses it starts at log 2 (dashed: policy = reference) and falls "
        "slowly. A fall to 0 means that the policy has memorized the pairs.",
        min_span=0.1,
        level=math.log(2),
        heldout="heldout_loss",
    ),
    Curve(
        "margin",
        "reward margin (nats)",
        "Rises: the chosen response becomes more likely relative to the rejected one.",
        min_span=0.2,
        level=0.0,
        heldout="heldout_margin",
    ),
    Curve(
        "accuracy",
        "chosen above rejected (share)",
        "Rises above one half. It starts near 0, because both rewards start equal.",
        min_span=0.4,
        bounds=SHARE,
        level=0.5,
        heldout="heldout_accuracy",
    ),
    Curve(
        "chosen_reward",
        "reward of the chosen (nats)",
        "Steady or rising. Far below 0, both responses have become unlikely, and the rejected one "
        "only more so.",
        min_span=0.2,
        level=0.0,
    ),
    FORGETTING,
)
PPO = (
    Curve(
        "score",
        "reward model's score",
        "Rises. A reward model's score is in standard deviations over its training responses.",
        min_span=0.5,
    ),
    Curve(
        "judge_score",
        "judge: P(better than the start)",
        "Rises above one half, together with the score. If the score keeps rising and this does "
        "not, the reward model is overoptimized.",
        min_span=0.2,
        bounds=SHARE,
        level=0.5,
    ),
    Curve(
        "kl_k1",
        "KL to the reference, k1 (nats)",
        "Grows slowly and stays small. A steep rise: the policy is gaming the reward model.",
        min_span=1.0,
        level=0.0,
    ),
    LENGTH,
    Curve(
        "entropy",
        "entropy (nats per token)",
        "Falls slowly. Near 0, the policy gives the same response every time.",
        min_span=0.5,
    ),
    ENDED,
    DISTINCT,
    Curve(
        "clip_fraction",
        "clipped tokens (share)",
        "Below about 0.2. Above that, the update steps are too large.",
        min_span=0.2,
        bounds=SHARE,
    ),
    Curve(
        "explained_variance",
        "value head: explained variance",
        "Rises from about 0 toward 1. Below 0, the value head is worse than a constant.",
        min_span=0.5,
        level=0.0,
    ),
    Curve(
        "loss",
        "loss",
        "Says little about success; spikes show update steps that were too large.",
        min_span=0.1,
    ),
    FORGETTING,
)
REST = (
    Curve(
        "score",
        "reward model's score of the grown samples",
        "Rises from one Grow step to the next: each stair is one Grow step.",
        min_span=0.5,
    ),
    Curve(
        "threshold",
        "score threshold of kept samples",
        "Rises within a Grow step, and from one Grow step to the next.",
        min_span=0.5,
    ),
    Curve("loss", "loss (nats per token)", "Falls within an Improve step.", min_span=0.2),
    LENGTH,
    ENDED,
    DISTINCT,
    FORGETTING,
)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. Raises ValueError, which names a line that is not an object."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: expected a JSON object")
            rows.append(row)
    return rows


def plots(rows: Rows, wanted: Sequence[Curve]) -> list[figures.Plot]:
    """Plots of those of the wanted metrics that were logged."""
    return [
        _plot(curve, points, _points(rows, curve.heldout))
        for curve in wanted
        if (points := _points(rows, curve.metric))
    ]


def _plot(curve: Curve, points: Points, heldout: Points) -> figures.Plot:
    svg, legend = figures.curve(
        points,
        "training step",
        curve.y_label,
        min_span=curve.min_span,
        bounds=curve.bounds,
        level=curve.level,
        heldout=heldout,
    )
    return figures.Plot(curve.y_label, svg, curve.caption, legend)


def _points(rows: Rows, metric: str) -> list[tuple[float, float]]:
    """(step, value) of the rows whose value is a finite number; of no metric, none."""
    return [
        (row.get("step", number), row[metric])
        for number, row in enumerate(rows, start=1)
        if _is_number(row.get(metric))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def alarms(rows: Rows) -> list[str]:
    """One line per alarm: its first step and for how many steps it was active; then rollbacks.

    rlaif/training/alarms.py defines the alarms. A rollback line lists the steps after which PPO
    returned to its best judged policy.
    """
    active: dict[str, list[float]] = {}
    rollbacks: list[float] = []
    for number, row in enumerate(rows, start=1):
        step = row.get("step", number)
        for name in row.get("alarms") or ():
            active.setdefault(name, []).append(step)
        if row.get("rollback"):
            rollbacks.append(step)
    total = len(rows)
    lines = [
        f"{name.replace('_', ' ')}: from step {steps[0]:g}, in {len(steps)} of {total} steps"
        for name, steps in active.items()
    ]
    if rollbacks:
        steps = ", ".join(f"{step:g}" for step in rollbacks)
        lines.append(f"rolled back to the best judged policy after step {steps}")
    return lines
