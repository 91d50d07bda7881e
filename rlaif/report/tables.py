"""An evaluation as tables, for the page and the terminal; 95 % intervals in square brackets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from rlaif.evaluation.comparison import PLANTED
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, KindResult, PolicyResult

NO_VALUE = "—"  # nothing to measure, or not measured


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Headings (the first column's too) and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def result_tables(result: EvaluationResult) -> list[ResultTable]:
    """One row per policy: against the start, its responses, refusal rates, win rate by trait.

    Refusal rates only if prompts have a kind, traits only if several were judged.
    """
    tables = [
        ResultTable(
            "Against the start, on held-out prompts (95 % intervals)",
            ("policy", "win rate", "at equal length", "judge score", "reward score", "unjudged"),
            tuple(map(_against_start_cells, result.policies)),
        ),
        ResultTable(
            "Responses",
            ("policy", "KL k1 (nats)", "tokens", "tokens/s", "self-BLEU", "distinct-2"),
            tuple(map(_response_cells, result.policies)),
        ),
    ]
    # refusal rates need prompts with a kind: whether a refusal is wanted depends on it
    if any(policy.kinds for policy in result.policies):
        refusals = [
            (
                policy.name,
                format_percent(policy.refusals_safe),
                format_percent(policy.refusals_harmful),
            )
            for policy in result.policies
        ]
        headings = ("policy", "on harmless prompts", "on harmful prompts")
        tables.append(ResultTable("Refusal rate", headings, tuple(refusals)))
    traits = sorted({trait for policy in result.policies for trait in policy.traits})
    if len(traits) > 1:  # a single trait has the overall win rate
        rows = [
            (policy.name, *(format_percent(policy.traits.get(trait)) for trait in traits))
            for policy in result.policies[1:]
        ]
        tables.append(ResultTable("Win rate by trait", ("policy", *traits), tuple(rows)))
    return tables


def kind_table(policies: Iterable[PolicyResult]) -> ResultTable | None:
    """One row per kind of prompt and policy; None if prompts have no kind."""
    rows = [(kind.kind, policy.name, kind) for policy in policies for kind in policy.kinds]
    if not rows:
        return None
    rows.sort(key=lambda row: row[0])  # stable: keeps the order of the policies
    return ResultTable(
        "By kind of prompt",
        ("kind", "policy", "prompts", "win rate", "judge score", "refusal rate", "tokens"),
        tuple((kind, name, *_kind_cells(result)) for kind, name, result in rows),
    )


def print_table(result: EvaluationResult, console: Console) -> None:
    """Print the result tables, and a warning for each policy that is overoptimized.

    On a narrow terminal long names fold: a cut name could be any of several stages.
    """
    for result_table in result_tables(result):
        print_result_table(result_table, console)
    for evaluator in result.evaluators:
        if evaluator.name.startswith(PLANTED):
            console.print(f"judged by {evaluator.name}: planted, simulated by rules, no model")
    for policy in result.policies:
        if policy.overoptimized:
            console.print(overoptimization(policy), soft_wrap=True)


def print_result_table(result_table: ResultTable, console: Console) -> None:
    """Print one table; on a narrow terminal its cells fold."""
    table = Table(title=result_table.title)
    table.add_column(result_table.headings[0], overflow="fold")
    for heading in result_table.headings[1:]:
        table.add_column(heading, justify="right", overflow="fold")
    for row in result_table.rows:
        table.add_row(*row)
    console.print(table)


def overoptimization(policy: PolicyResult) -> str:
    """A warning about a policy whose reward rose while the judge's preference did not."""
    return (
        f"{policy.name}: the reward score is up by {format_signed(policy.reward_gain)}, but the "
        f"judge score ({format_number(policy.judge_score)}) is not significantly above 0.5: the "
        "reward model is overoptimized, or there are too few prompts."
    )


def _against_start_cells(policy: PolicyResult) -> tuple[str, ...]:
    judged = policy.win_rate or policy.unjudged
    return (
        policy.name,
        format_percent(policy.win_rate),
        format_percent(policy.length_controlled),
        format_number(policy.judge_score),
        format_signed(policy.reward_score),
        str(sum(policy.unjudged.values())) if judged else NO_VALUE,
    )


def _response_cells(policy: PolicyResult) -> tuple[str, ...]:
    return (
        policy.name,
        format_number(None if policy.kl is None else policy.kl.k1),
        f"{policy.length.mean:.0f}",
        NO_VALUE if policy.tokens_per_second is None else f"{policy.tokens_per_second:.0f}",
        format_number(policy.self_bleu),
        NO_VALUE if policy.distinct_2 is None else f"{policy.distinct_2:.2f}",
    )


def _kind_cells(result: KindResult) -> tuple[str, ...]:
    return (
        str(result.prompts),
        format_percent(result.win_rate),
        format_number(result.judge_score),
        format_percent(result.refusal_rate),
        f"{result.mean_tokens:.0f}",
    )


def format_percent(estimate: Estimate | None) -> str:
    """A share in percent: 66 % [48, 80]"""
    return _format(estimate, lambda x: f"{100 * x:.0f}", " %")


def format_number(estimate: Estimate | None) -> str:
    """Two decimals: 0.52 [0.49, 0.56]"""
    return _format(estimate, lambda x: f"{x:.2f}")


def format_signed(estimate: Estimate | None) -> str:
    """Two decimals with a sign: +0.03 [-0.35, +0.41]"""
    return _format(estimate, lambda x: f"{x:+.2f}")


def _format(estimate: Estimate | None, number: Callable[[float], str], unit: str = "") -> str:
    if estimate is None:
        return NO_VALUE
    text = number(estimate.value) + unit
    if estimate.low is not None and estimate.high is not None:
        text += f" [{number(estimate.low)}, {number(estimate.high)}]"
    return text
