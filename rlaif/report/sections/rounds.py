"""The sections of rounds: each one's evaluation, and all of them side by side."""

from __future__ import annotations

from rlaif.evaluation.rounds.result import ROUND_FILE, ROUNDS_FILE, RoundResult, RoundsSummary
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.rounds import round_sentence, rounds_plots, rounds_sentences, rounds_table
from rlaif.report.sections.base import SectionContent
from rlaif.report.sections.evaluation import evaluation_section
from rlaif.report.sections.gold import planted_warning


def round_section(stage: StageFolder, inputs: ReportInputs) -> SectionContent:
    """The policy of a round against the start, as any evaluation, and what it means."""
    content = evaluation_section(stage, inputs)
    found = stage.load(ROUND_FILE, RoundResult.load)
    if content.values is None or found is None:
        return content
    findings = [round_sentence(found), *content.values["findings"]]
    values = {**content.values, "findings": findings}
    return SectionContent(content.template, values, content.missing, content.outcome)


def rounds_section(stage: StageFolder, _: ReportInputs) -> SectionContent:
    """Every round in a table and in curves, and which one is kept."""
    found = stage.load(ROUNDS_FILE, RoundsSummary.load)
    if found is None:
        return SectionContent("rounds.html.j2", None, (ROUNDS_FILE,))
    values = {
        "planted": planted_warning(found.planted),
        "findings": rounds_sentences(found),
        "table": rounds_table(found),
        "curves": rounds_plots(found),
    }
    return SectionContent("rounds.html.j2", values)
