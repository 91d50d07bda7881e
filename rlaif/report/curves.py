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

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Curve:
    """How a metric of metrics.jsonl is plotted."""

    metric: str
    y_label: str
    caption: str  # what good looks like
    level: float | None = None  # of a dashed reference line
    heldout: str = ""  # the metric's name on held-out records, drawn as dots


LENGTH = Curve(
    "response_length",
    "response length (tokens)",
    "Steady. If it grows with the score, the reward model rewards length.",
)
ENDED = Curve(
    "eos_rate", "complete responses (share)", "High and steady: responses are not cut off."
)
DISTINCT = Curve(
    "distinct_2",
    "distinct-2 (share)",
    "Steady. A fall means that responses become more alike: mode collapse.",
)

SFT = (
    Curve(
        "loss",
        "loss (nats per token)",
        "Falls. Dots, if any, are the loss on held-out responses: when it rises, the model is "
        "overfitting.",
        heldout="heldout_loss",
    ),
)
REWARD = (
    Curve(
        "loss",
        "loss (nats)",
        "Falls below the dashed line (log 2: a model that has learned nothing). It cannot fall "
        "below the entropy of the soft labels.",
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
        "slowly. A fall to 0 means that the policy has memorized the pairs.",
        level=math.log(2),
        heldout="heldout_loss",
    ),
    Curve(
        "margin",
        "reward margin (nats)",
        "Rises: the chosen response becomes more likely relative to the rejected one.",
        level=0.0,
        heldout="heldout_margin",
    ),
    Curve(
        "accuracy",
        "chosen above rejected (share)",
        "Rises above one half. It starts near 0, because both rewards start equal.",
        level=0.5,
        heldout="heldout_accuracy",
    ),
    Curve(
        "chosen_reward",
        "reward of the chosen (nats)",
        "Steady or rising. Far below 0, both responses have become unlikely, and the rejected one "
        "only more so.",
        level=0.0,
    ),
)
PPO = (
    Curve(
        "score",
        "reward model's score",
        "Rises. Each trait's score is in standard deviations over the training responses.",
    ),
    Curve(
        "judge_score",
        "judge: P(better than the start)",
        "Rises above one half, together with the score. If the score keeps rising and this does "
        "not, the reward model is overoptimized.",
        level=0.5,
    ),
    Curve(
        "kl_k1",
        "KL to the reference, k1 (nats)",
        "Grows slowly and stays small. A steep rise: the policy is gaming the reward model.",
        level=0.0,
    ),
    LENGTH,
    Curve(
        "entropy",
        "entropy (nats per token)",
        "Falls slowly. Near 0, the policy gives the same response every time.",
    ),
    ENDED,
    DISTINCT,
    Curve(
        "clip_fraction",
        "clipped tokens (share)",
        "Below about 0.2. Above that, the update steps are too large.",
    ),
    Curve(
        "explained_variance",
        "value head: explained variance",
        "Rises from about 0 toward 1. Below 0, the value head is worse than a constant.",
        level=0.0,
    ),
    Curve(
        "loss", "loss", "Says little about success; spikes show update steps that were too large."
    ),
)
REST = (
    Curve(
        "score",
        "reward model's score of the grown samples",
        "Rises from one Grow step to the next: each stair is one Grow step.",
    ),
    Curve(
        "threshold",
        "score threshold of kept samples",
        "Rises within a Grow step, and from one Grow step to the next.",
    ),
    Curve("loss", "loss (nats per token)", "Falls within an Improve step."),
    LENGTH,
    ENDED,
    DISTINCT,
)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. Raises ValueError for a line that is not JSON."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def plots(rows: Rows | None, wanted: Sequence[Curve]) -> list[dict[str, Any]] | None:
    """Plots of the wanted metrics that were logged; None if none was."""
    drawn = []
    for curve in wanted if rows else ():
        points = _points(rows or (), curve.metric)
        if points:
            heldout = _points(rows or (), curve.heldout) if curve.heldout else []
            svg = figures.curve(points, "training step", curve.y_label, curve.level, heldout)
            drawn.append({"title": curve.y_label, "plot": svg, "caption": curve.caption})
    return drawn or None


def _points(rows: Rows, metric: str) -> list[tuple[float, float]]:
    """(step, value) of the rows whose value is a finite number."""
    return [
        (row.get("step", number), row[metric])
        for number, row in enumerate(rows, start=1)
        if _is_number(row.get(metric))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def alarms(rows: Rows | None) -> list[str]:
    """One line per alarm: its first step and for how many steps it was active; then rollbacks.

    rlaif/training/alarms.py defines the alarms. A rollback line lists the steps after which PPO
    returned to its best judged policy.
    """
    active: dict[str, list[float]] = {}
    rollbacks: list[float] = []
    for number, row in enumerate(rows or (), start=1):
        step = row.get("step", number)
        for name in row.get("alarms") or ():
            active.setdefault(name, []).append(step)
        if row.get("rollback"):
            rollbacks.append(step)
    total = len(rows or ())
    lines = [
        f"{name.replace('_', ' ')}: from step {steps[0]:g}, in {len(steps)} of {total} steps"
        for name, steps in active.items()
    ]
    if rollbacks:
        steps = ", ".join(f"{step:g}" for step in rollbacks)
        lines.append(f"rolled back to the best judged policy after step {steps}")
    return lines
