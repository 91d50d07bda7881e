"""A comparison as tables and sentences, for the terminal and the page."""

from __future__ import annotations

from rich.console import Console

from rlaif.comparing.result import ArmResult, MethodComparison
from rlaif.evaluation.intervals import Estimate
from rlaif.report.formats import NO_VALUE, format_number, format_percent, format_signed
from rlaif.report.tables import ResultTable, print_result_table


def print_comparison(found: MethodComparison, console: Console) -> None:
    """Print the tables, what they rest on, and the last line."""
    for table in comparison_tables(found):
        print_result_table(table, console)
    for sentence in sentences(found):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(found.last_line, style="bold", markup=False, highlight=False, soft_wrap=True)


def comparison_tables(found: MethodComparison) -> list[ResultTable]:
    """Against the start, head to head, responses, costs, strengths; by seed where there are
    several."""
    tables = [_against_start(found), _head_to_head(found), _responses(found), _costs(found)]
    if found.strengths is not None and found.strengths.policies:
        rows = found.strengths.arms or found.strengths.policies
        cells = [(r.name, format_signed(r.strength), format_percent(r.wins_start)) for r in rows]
        headings = ("arm", "strength (log-odds)", "P(better than the start)")
        tables.append(ResultTable("Strengths, Bradley-Terry", headings, tuple(cells)))
    if found.seeds > 1:
        most = max(len(arm.policies) for arm in found.trained)
        by_seed = [(a.name, *_padded([format_percent(r) for r in a.by_seed], most))
                   for a in found.trained]  # fmt: skip
        seeds = ("arm", *(f"seed {number}" for number in range(1, most + 1)))
        tables.append(ResultTable("Win rate by seed (over prompts)", seeds, tuple(by_seed)))
    return [table for table in tables if table.rows]


def _against_start(found: MethodComparison) -> ResultTable:
    judges = list(dict.fromkeys(judge for arm in found.trained for judge in arm.by_judge))
    gold = any(arm.gold_gain for arm in found.trained)
    rows = []
    for arm in found.trained:
        cells = [format_percent(arm.by_judge.get(judge)) for judge in judges]
        cells += [format_percent(arm.length_controlled), format_percent(arm.longer)]
        rows.append((arm.name, *cells, *([format_signed(arm.gold_gain)] if gold else [])))
    headings = (
        "arm", *(f"win rate by {judge}" for judge in judges), "at equal length",
        "longer than the start", *(["gold gain (planted)"] if gold else []),
    )  # fmt: skip
    title = "Against the start, over seeds and prompts (95 % intervals)"
    return ResultTable(title, headings, tuple(rows))


def _head_to_head(found: MethodComparison) -> ResultTable:
    rows = [
        (
            f"{pair.first} over {pair.second}",
            format_percent(pair.win_rate),
            str(pair.win_rate.n),
            str(pair.seeds),
            pair.winner or "cannot be told",
        )
        for pair in found.head_to_head
    ]
    title = "Head to head (95 % intervals that hold together)"
    return ResultTable(title, ("arms", "win rate", "prompts", "seeds", "better"), tuple(rows))


def _responses(found: MethodComparison) -> ResultTable:
    kinds = list(dict.fromkeys(kind for arm in found.arms for kind in arm.refusals))
    rows = [
        (
            arm.name,
            _kl(arm),
            _number(arm.distinct_2, 2),
            _number(arm.tokens_per_response, 0),
            *(format_percent(arm.refusals.get(kind)) for kind in kinds),
            _number(arm.text_nll, 3),
            _signed(arm.text_change),
        )
        for arm in found.arms
    ]
    headings = (
        "arm", "KL k1 (nats)", "distinct-2", "tokens", *(f"refuses, {kind}" for kind in kinds),
        "plain-text NLL", "less the start's",
    )  # fmt: skip
    return ResultTable("Responses, by rule", headings, tuple(rows))


def _costs(found: MethodComparison) -> ResultTable:
    rows = [
        (
            arm.name,
            str(len(arm.trainings)),
            _range([training.steps for training in arm.trainings]),
            _mean([training.seconds for training in arm.trainings], 0),
            f"{arm.reward_seconds:.0f}" if arm.reward_seconds else NO_VALUE,
            _mean([training.tokens for training in arm.trainings], 0),
            _most([training.memory_gib for training in arm.trainings]),
            _budget(arm),
            NO_VALUE if found.label_reads is None else f"{found.label_reads:,}",
            str(arm.answers_drawn),
        )
        for arm in found.trained
    ]
    headings = (
        "arm", "trainings", "steps", "seconds", "and the reward model's", "tokens", "peak GiB",
        "budget spent", "judge reads", "draws per answer",
    )  # fmt: skip
    return ResultTable("What it took, mean of the seeds", headings, tuple(rows))


def sentences(found: MethodComparison) -> list[str]:
    """What the tables rest on: labels, budgets, what is missing, who judged."""
    lines = []
    if found.labels is not None:
        reads = f" from {found.label_reads:,} reads" if found.label_reads is not None else ""
        left = f"; the budget left out {found.over_budget} pairs" if found.over_budget else ""
        lines.append(f"All arms share {found.labels:,} labeled pairs{reads}{left}.")
    evaluated = f"{found.prompts} held-out prompts, with {found.evaluation_reads:,} reads"
    lines.append(f"Judged on {evaluated}.")
    if found.budget:
        given = [
            f"{value:,.10g} {'reads for the labels' if name == 'reads' else f'{name} a training'}"
            for name, value in found.budget.items()
        ]
        ended = [t.policy for arm in found.trained for t in arm.trainings if t.ended_by_budget]
        by = f"; it ended {', '.join(ended)}" if ended else ""
        lines.append(f"Budget: {', '.join(given)}{by}.")
    once = [t for arm in found.trained for t in arm.trainings if t.ended_by_budget and t.steps == 1]
    if once:
        names = ", ".join(training.policy for training in once)
        lines.append(f"The budget was spent in the first step of {names}: too small to compare it.")
    for policy, why in found.left_out.items():
        lines.append(f"Left out: {policy}, whose training failed: {why}.")
    return [*lines, *found.judged_by]


# ── cells ────────────────────────────────────────────────────────────────────────────────────


def _kl(arm: ArmResult) -> str:
    if arm.kl_most is not None:
        return f"at most {arm.kl_most:.2f}"
    return format_number(arm.kl)


def _number(value: float | None, decimals: int) -> str:
    return NO_VALUE if value is None else f"{value:,.{decimals}f}"


def _signed(estimate: Estimate | None) -> str:
    if estimate is None:
        return NO_VALUE
    text = f"{estimate.value:+.3f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _mean(values: list[float], decimals: int) -> str:
    return _number(sum(values) / len(values), decimals) if values else NO_VALUE


def _range(values: list[int]) -> str:
    if not values:
        return NO_VALUE
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _most(values: list[float]) -> str:
    return f"{max(values):.2f}" if values else NO_VALUE


def _budget(arm: ArmResult) -> str:
    spent = [t.budget for t in arm.trainings if t.budget is not None]
    return f"{100 * sum(spent) / len(spent):.0f} %" if spent else NO_VALUE


def _padded(cells: list[str], length: int) -> list[str]:
    return [*cells, *[NO_VALUE] * (length - len(cells))]
