"""An evaluation as tables, for the page and the terminal; 95 % intervals in square brackets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from rlaif.evaluation.policies import EvaluationResult, KindResult, PolicyResult
from rlaif.evaluation.rules.measures import RuleResult
from rlaif.report.formats import (
    NO_VALUE,
    format_number,
    format_percent,
    format_signed,
    formatted,
)
from rlaif.report.judged_by import judged_by


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Headings (the first column's too) and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def result_tables(result: EvaluationResult) -> list[ResultTable]:
    """One row per policy: against the start, by each of several judges, its responses, the rules,
    win rate by trait (where several were judged).
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
    tables[1:1] = _judge_tables(result)
    tables += _rule_tables(result)
    traits = sorted({trait for policy in result.policies for trait in policy.traits})
    if len(traits) > 1:  # a single trait has the overall win rate
        rows = [
            (policy.name, *(format_percent(policy.traits.get(trait)) for trait in traits))
            for policy in result.policies[1:]
        ]
        tables.append(ResultTable("Win rate by trait", ("policy", *traits), tuple(rows)))
    return tables


def _judge_tables(result: EvaluationResult) -> list[ResultTable]:
    """A column of win rates for each of several judges; none for one, which the first table has."""
    if len(result.judges) < 2:
        return []
    columns = [{p.name: p.win_rate for p in judge.policies} for judge in result.judges]
    rows = [
        (policy.name, *(format_percent(column.get(policy.name)) for column in columns))
        for policy in result.policies[1:]
    ]
    headings = ("policy", *(judge.name for judge in result.judges))
    return [ResultTable("Win rate by judge", headings, tuple(rows))]


def _rule_tables(result: EvaluationResult) -> list[ResultTable]:
    """One row per rule and policy; none for results written before there were rules."""
    order = list(dict.fromkeys(r.rule for policy in result.policies for r in policy.rules))
    rows = [
        (each.rule, policy.name, str(each.value.n), *_rule_cells(each))
        for rule in order
        for policy in result.policies
        for each in policy.rules
        if each.rule == rule
    ]
    headings = ("rule", "policy", "prompts", "value", "less the start's")
    return [ResultTable("By rule, without a judge", headings, tuple(rows))] if rows else []


def _rule_cells(result: RuleResult) -> tuple[str, str]:
    if result.is_share:
        points = formatted(result.change, lambda x: f"{100 * x:+.0f}", " points")
        return format_percent(result.value), points
    return (
        formatted(result.value, lambda x: f"{x:.1f}"),
        formatted(result.change, lambda x: f"{x:+.1f}"),
    )


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
    for line in judged_by(result):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
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
        _tokens(policy.length.mean),
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
        _tokens(result.mean_tokens),
    )


def _tokens(mean: float) -> str:
    """A mean length; responses of other programs have no known number of tokens (0)."""
    return f"{mean:.0f}" if mean else NO_VALUE
