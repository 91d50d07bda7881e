"""An evaluation as tables: the same cells on the terminal and on the page, 95 % intervals in []."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.policies import EvaluationResult, KindResult, PolicyResult

NOTHING = "—"  # nothing to measure, or nothing measured


@dataclass(frozen=True, slots=True)
class TableOfPolicies:
    """Headings (the first column's too) and rows of text; at most 100 columns wide as printed."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: EvaluationResult) -> list[TableOfPolicies]:
    """Against the start, what it says, what it refuses where prompts have a kind, and by trait
    where the judge looked at several."""
    found = [
        TableOfPolicies(
            "Against the start, on held-out prompts (95 % intervals)",
            ("policy", "win rate", "at equal length", "judge score", "reward score", "unjudged"),
            tuple(map(_against_the_start, result.policies)),
        ),
        TableOfPolicies(
            "What it says",
            ("policy", "KL k1 (nats)", "tokens", "tokens/s", "self-BLEU", "distinct-2"),
            tuple(map(_what_it_says, result.policies)),
        ),
    ]
    if any(policy.kinds for policy in result.policies):
        refusals = [
            (policy.name, share(policy.refusals_safe), share(policy.refusals_harmful))
            for policy in result.policies
        ]
        headings = ("policy", "of harmless prompts", "of harmful prompts")
        found.append(TableOfPolicies("How many it refuses", headings, tuple(refusals)))
    traits = sorted({trait for policy in result.policies for trait in policy.traits})
    if len(traits) > 1:
        rows = [
            (policy.name, *(share(policy.traits.get(trait)) for trait in traits))
            for policy in result.policies[1:]
        ]
        found.append(TableOfPolicies("Win rate by trait", ("policy", *traits), tuple(rows)))
    return found


def kind_table(policies: Iterable[PolicyResult]) -> TableOfPolicies | None:
    """Every policy on every kind of prompt; None where prompts have no kind."""
    rows = [(kind.kind, policy.name, kind) for policy in policies for kind in policy.kinds]
    if not rows:
        return None
    rows.sort(key=lambda row: row[0])  # stable: policies stay in their order
    return TableOfPolicies(
        "By kind of prompt",
        ("kind", "policy", "prompts", "win rate", "judge score", "refuses", "tokens"),
        tuple((kind, name, *_on_one_kind(found)) for kind, name, found in rows),
    )


def print_table(result: EvaluationResult, console: Console) -> None:
    """The tables of `tables`, and what the reward model is suspected of."""
    for found in tables(result):
        table = Table(title=found.title)
        table.add_column(found.headings[0])
        for heading in found.headings[1:]:
            table.add_column(heading, justify="right")
        for row in found.rows:
            table.add_row(*row)
        console.print(table)
    for policy in result.policies:
        if policy.overoptimized:
            console.print(overoptimization(policy), soft_wrap=True)


def overoptimization(policy: PolicyResult) -> str:
    """What to think of a policy whose reward rose while the judge's preference did not."""
    return (
        f"{policy.name}: the reward score is up by {signed(policy.reward_gain)}, the judge score "
        f"({plain(policy.judge_score)}) is not clear of 0.5: overoptimized, or too few prompts."
    )


def _against_the_start(policy: PolicyResult) -> tuple[str, ...]:
    judged = policy.win_rate or policy.unjudged
    return (
        policy.name,
        share(policy.win_rate),
        share(policy.length_controlled),
        plain(policy.judge_score),
        signed(policy.reward_score),
        str(sum(policy.unjudged.values())) if judged else NOTHING,
    )


def _what_it_says(policy: PolicyResult) -> tuple[str, ...]:
    return (
        policy.name,
        plain(None if policy.kl is None else policy.kl.k1),
        f"{policy.length.mean:.0f}",
        NOTHING if policy.tokens_per_second is None else f"{policy.tokens_per_second:.0f}",
        plain(policy.self_bleu),
        NOTHING if policy.distinct_2 is None else f"{policy.distinct_2:.2f}",
    )


def _on_one_kind(found: KindResult) -> tuple[str, ...]:
    return (
        str(found.prompts),
        share(found.win_rate),
        plain(found.judge_score),
        share(found.refusal_rate),
        f"{found.mean_tokens:.0f}",
    )


def share(estimate: Estimate | None) -> str:
    """66 % [48, 80]"""
    return _shown(estimate, lambda x: f"{100 * x:.0f}", " %")


def plain(estimate: Estimate | None) -> str:
    """0.52 [0.49, 0.56]"""
    return _shown(estimate, lambda x: f"{x:.2f}")


def signed(estimate: Estimate | None) -> str:
    """+0.03 [-0.35, +0.41]"""
    return _shown(estimate, lambda x: f"{x:+.2f}")


def _shown(estimate: Estimate | None, number: Callable[[float], str], unit: str = "") -> str:
    if estimate is None:
        return NOTHING
    text = number(estimate.value) + unit
    if estimate.low is not None and estimate.high is not None:
        text += f" [{number(estimate.low)}, {number(estimate.high)}]"
    return text
