"""The section of a revise stage: how many lessons, what was refused and why, and some of both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from constitution.schema import Message
from rlaif.data.records import Demonstration, iter_jsonl
from rlaif.feedback.revisions.summary import RevisionSummary
from rlaif.report.excerpts import excerpt
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.sections.base import SectionContent, missing_files
from rlaif.report.sections.gold import gold_of_labels, planted_warning

SUMMARY, LESSONS, UNREVISED = "revisions.summary.json", "lessons.jsonl", "unrevised.jsonl"
SHOWN = 20  # lessons, and as many of what was refused


class _Unrevised(BaseModel):
    """A line of unrevised.jsonl."""

    reason: str
    detail: str
    prompt: tuple[Message, ...]
    response: str
    revision: str


def revise_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """The counts, the first lessons and the first refused revisions."""
    summary = stage.load(SUMMARY, RevisionSummary.load)
    lessons = stage.load(LESSONS, _first_lessons)
    refused = stage.load(UNREVISED, _first_refused)
    missing = missing_files({SUMMARY: summary, LESSONS: lessons, UNREVISED: refused})
    if summary is None:
        return SectionContent("revise.html.j2", None, missing)
    values = {
        "planted": planted_warning(summary.judge),
        "gold": gold_of_labels(stage),
        "summary": summary,
        "lessons": lessons or [],
        "refused": refused or [],
    }
    return SectionContent("revise.html.j2", values, missing)


def _first_lessons(path: Path) -> list[dict[str, Any]]:
    return [
        {"prompt": _shown(each.prompt), "revision": excerpt(each.response)}
        for each in islice(iter_jsonl(path, Demonstration), SHOWN)
    ]


def _first_refused(path: Path) -> list[dict[str, Any]]:
    return [
        {
            "reason": each.detail or each.reason,
            "prompt": _shown(each.prompt),
            "response": excerpt(each.response),
            "revision": excerpt(each.revision),
        }
        for each in islice(_refused(path), SHOWN)
    ]


def _refused(path: Path) -> Iterator[_Unrevised]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield _Unrevised.model_validate_json(line)


def _shown(prompt: tuple[Message, ...]) -> Any:
    return [(message.role, excerpt(message.content)) for message in prompt]
