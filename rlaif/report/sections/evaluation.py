"""The section of an evaluate stage: win rates with intervals, and responses with verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.evaluation.comparison import ResponseComparison
from rlaif.evaluation.policies import EvaluationResult, PolicyResult
from rlaif.report import figures
from rlaif.report.beyond_win_rates import further_sentences, further_tables
from rlaif.report.excerpts import excerpt, prompts_that_fit
from rlaif.report.formats import format_number, format_percent, format_signed
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.judged_by import LABELED_TOO, columns_of, floor_line, judged_by, worth_line
from rlaif.report.sections.base import EvaluationOutcome, JudgeModel, SectionContent
from rlaif.report.sections.gold import gold_of_policies, planted_warning
from rlaif.report.sections.responses import prompt_topics
from rlaif.report.tables import kind_table, overoptimization, result_tables

EVALUATION = "evaluation.json"
PERCENT = "\N{NO-BREAK SPACE}%"
VERDICTS = {"better": "better than the start", "tie": "tie", "worse": "worse", "none": "no label"}
"""Value in the page → name in the filter."""


def evaluation_section(stage: StageFolder, inputs: ReportInputs) -> SectionContent:
    """What the policies achieved, how sure that is, and the responses it is based on."""
    result = stage.load(EVALUATION, EvaluationResult.load)
    if result is None:
        return SectionContent("evaluation.html.j2", None, (EVALUATION,))
    trained = result.policies[1:]  # the start is not compared with itself
    win_rates = figures.interval_bars((policy.name, policy.win_rate) for policy in trained)
    at_equal_length = figures.interval_bars(
        (policy.name, policy.length_controlled) for policy in trained
    )
    judges = tuple(JudgeModel(e.name, e.weights_sha256, e.constitution) for e in result.evaluators)
    values = {
        "judges": judges,
        "judged_by": judged_by(result),
        "labeled_too": LABELED_TOO,
        "planted": [text for judge in judges if (text := planted_warning(judge.name))],
        "gold": gold_of_policies(stage),
        "findings": [_finding(policy) for policy in trained],
        "warnings": [overoptimization(policy) for policy in trained if policy.overoptimized],
        "win_rates": win_rates,
        "at_equal_length": at_equal_length,
        "judge_scores": figures.interval_bars((p.name, p.judge_score) for p in trained),
        "tables": [*result_tables(result), *further_tables(result)],
        "further": further_sentences(result),
        "kinds": kind_table(result.policies),
        "unjudged": {policy.name: policy.unjudged for policy in trained if policy.unjudged},
        **_responses(result, prompt_topics(inputs.stages)),
    }
    findings = [(policy.name, *_verdict(policy)) for policy in trained]
    basis = (*map(worth_line, columns_of(result)), floor_line(result))
    outcome = EvaluationOutcome(stage.name, len(result.prompts), judges, findings, win_rates, basis)
    return SectionContent("evaluation.html.j2", values, outcome=outcome)


def _verdict(policy: PolicyResult) -> tuple[str, str]:
    """(whether it is better, the numbers): claims no more than the interval allows."""
    rate = policy.win_rate
    if rate is None or rate.low is None or rate.high is None:
        return "no result", "the judge gave no label"
    low, high = 100 * rate.low, 100 * rate.high
    if low > 50:
        finding = "better than the start"
    elif high < 50:
        finding = "worse than the start"
    else:
        finding = "no significant difference from the start"
    numbers = (
        f"it wins on {100 * rate.value:.0f}{PERCENT} of {rate.n} prompts "
        f"(95{PERCENT} interval {low:.0f} to {high:.0f}{PERCENT})"
    )
    return finding, numbers


def _finding(policy: PolicyResult) -> str:
    """The result of a policy in a sentence or two."""
    finding, numbers = _verdict(policy)
    sentence = f"{policy.name}: {finding}; {numbers}"
    if policy.length_controlled:
        sentence += f", at equal length {format_percent(policy.length_controlled)}"
    if policy.judge_score:
        sentence += f". Judge score {format_number(policy.judge_score)}"
    if policy.reward_gain:
        sentence += f"; reward score {format_signed(policy.reward_gain)} against the start"
    return f"{sentence}."


def _responses(result: EvaluationResult, topics: Mapping[str, str]) -> dict[str, Any]:
    """Held-out prompts, evenly spaced, with every policy's first response and its verdict."""
    first: list[Mapping[str, ResponseComparison]] = [
        {comparison.prompt: comparison for comparison in reversed(policy.verdicts)}
        for policy in result.policies
    ]
    # side by side, the policies' responses to one prompt show what an average hides
    ids = list(result.prompts)
    shown = [ids[place] for place in prompts_that_fit(len(ids), len(result.policies))]
    names = [policy.name for policy in result.policies]
    rows = []
    for id in shown:
        compared = [(name, own.get(id)) for name, own in zip(names, first, strict=True)]
        rows.append(
            {
                "prompt": [(m.role, excerpt(m.content)) for m in result.prompts[id]],
                "topic": topics.get(id, ""),
                "responses": [
                    _response(name, comparison, is_start=place == 0)
                    for place, (name, comparison) in enumerate(compared)
                    if comparison is not None
                ],
            }
        )
    return {
        "rows": rows,
        "prompts": len(ids),
        "policies": names[1:],
        "verdicts": VERDICTS,
        "topics": sorted({row["topic"] for row in rows} - {""}),
    }


def _response(name: str, comparison: ResponseComparison, *, is_start: bool) -> dict[str, Any]:
    """A response as the list shows it; the start has neither a verdict nor a filter."""
    prob = comparison.prob
    if is_start:
        verdict, note = "", "starting policy"
    elif prob is None:
        verdict, note = "none", f"no label: {comparison.reason}"
    else:
        verdict = "tie" if prob == 0.5 else "better" if prob > 0.5 else "worse"
        note = f"P(better than start) {prob:.2f}"
    policy = "" if is_start else name
    text = excerpt(comparison.response)
    return {"name": name, "policy": policy, "verdict": verdict, "note": note, "text": text}
