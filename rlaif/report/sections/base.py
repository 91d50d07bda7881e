"""What a section of the page holds, and what it tells the first screen.

Each file here builds the section of one or more kinds of stages from the stage's files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.report.figures import IntervalBar
from rlaif.report.inputs import ReportInputs, StageFolder


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """A model that labeled or evaluated, and the constitution it judged by."""

    name: str
    weights_sha256: str
    constitution: str


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """For the first screen: who labeled how many pairs. judge: None if it is not recorded."""

    stage: str
    labels: int
    judge: JudgeModel | None


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """For the first screen: who compared the policies on how many prompts, and what came out.

    judges: empty if they are not recorded. findings: (policy, whether it is better, the numbers).
    basis: what each judge is worth on gold, and the floor of a win rate, in words.
    """

    stage: str
    prompts: int
    judges: tuple[JudgeModel, ...]
    findings: Sequence[tuple[str, str, str]]
    bars: Sequence[IntervalBar]
    basis: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SectionContent:
    """A section: its template in templates/, the values of the template, and missing files.

    Without values, nothing but the missing files is shown.
    """

    template: str
    values: Mapping[str, Any] | None
    missing: tuple[str, ...] = ()
    outcome: LabelOutcome | EvaluationOutcome | None = None


SectionBuilder = Callable[[StageFolder, ReportInputs], SectionContent]
"""Builds a stage's section; the other stages say what topics the prompts have."""


def missing_files(found: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the files whose content is None: they do not exist."""
    return tuple(name for name, content in found.items() if content is None)
