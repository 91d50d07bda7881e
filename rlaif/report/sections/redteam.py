"""The section of a redteam stage: how often attacks succeed, by family and by topic; no texts."""

from __future__ import annotations

from rlaif.redteam.summary import SUMMARY, RedTeamSummary, Successes, shown_share
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.sections.base import SectionContent, missing_files
from rlaif.report.sections.gold import planted_warning


def redteam_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """The counts of an attack."""
    summary = stage.load(SUMMARY, RedTeamSummary.load)
    missing = missing_files({SUMMARY: summary})
    if summary is None:
        return SectionContent("redteam.html.j2", None, missing)
    values = {
        "planted": planted_warning(summary.judge),
        "summary": summary,
        "tables": {
            "family": _rows(summary.by_family),
            "topic": _rows(summary.by_topic),
        },
    }
    return SectionContent("redteam.html.j2", values, missing)


def _rows(groups: dict[str, Successes]) -> list[tuple[str, int, int, str]]:
    """(name, cells, successes, their share with its interval)."""
    return [
        (name, each.cells, each.succeeded, shown_share(each.succeeded, each.cells))
        for name, each in groups.items()
    ]
