"""The sections of training stages: curves, alarms, and how good a reward model became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.evaluation.reward_models import RewardEvaluation
from rlaif.report import curves, figures
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.sections.base import SectionBuilder, SectionContent, missing_files

METRICS, EVALUATION = "metrics.jsonl", "evaluation.json"


def policy_section(wanted: Sequence[curves.Curve]) -> SectionBuilder:
    """The builder of a policy's section, which plots the wanted metrics."""

    def build(stage: StageFolder, _: ReportInputs) -> SectionContent:
        rows = stage.load(METRICS, curves.read_metrics)
        if rows is None:
            return SectionContent("training.html.j2", None, (METRICS,))
        values = {"steps": len(rows), "curves": curves.plots(rows, wanted)}
        return SectionContent("training.html.j2", values | {"alarms": curves.alarms(rows)})

    return build


def reward_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """A reward model: agreement with held-out labels, calibration, length, and its training."""
    rows = stage.load(METRICS, curves.read_metrics)
    evaluation = stage.load(EVALUATION, RewardEvaluation.load)
    found = {METRICS: rows, EVALUATION: evaluation}
    missing = missing_files(found)
    if evaluation is None and rows is None:
        return SectionContent("reward.html.j2", None, missing)
    values = {
        "evaluation": evaluation,
        "curves": curves.plots(rows or (), curves.REWARD),
        **(_quality(evaluation) if evaluation else {}),
    }
    return SectionContent("reward.html.j2", values, missing)


def _quality(evaluation: RewardEvaluation) -> dict[str, Any]:
    """How the reward model does on held-out labels, as plots."""
    return {
        "accuracy": figures.interval_bars(
            [
                ("reward model", evaluation.accuracy),
                ("“pick the longer response”", evaluation.length_floor),
            ]
        ),
        "reliability": figures.Plot(
            "Judge's agreement by the reward model's confidence",
            figures.reliability(evaluation.bins, "reward model's confidence"),
            "Good: dots on the dashed diagonal. Below it, the model is overconfident. Larger dots "
            "hold more pairs.",
        ),
    }
