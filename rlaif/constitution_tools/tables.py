"""What the workshop found, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from judge_service.types import Judgment, Unjudged, Usage
from rlaif.constitution_tools.changes import PrincipleChange
from rlaif.constitution_tools.diff import Difference, Move, Plan
from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult, ExamplesSummary
from rlaif.evaluation.intervals import Estimate

_COLOURS = {
    ExampleResult.PASSED: "green",
    ExampleResult.WEAK: "yellow",
    ExampleResult.FAILED: "bold red",
    ExampleResult.UNJUDGED: "bold red",
}
_SHORT = 300  # characters of a text in a flip


# ── test ─────────────────────────────────────────────────────────────────────────────────────


def print_outcomes(
    outcomes: Sequence[ExampleOutcome], summary: ExamplesSummary, console: Console
) -> None:
    table = Table(
        "principle", "example", "expected", "P(expected)", "A first", "B first", "spread", "result"
    )
    for found in outcomes:
        expected = "TIE, P(A)" if found.preferred == "TIE" else found.preferred
        reads = (found.prob, found.prob_ab, found.prob_ba, found.spread)
        result = Text(found.result, style=_COLOURS[found.result])
        table.add_row(found.principle_id, str(found.number), expected, *map(_prob, reads), result)
    if outcomes:
        console.print(table)
    for found in outcomes:
        if found.result is ExampleResult.UNJUDGED:
            told = f"{found.principle_id}, example {found.number}: {found.reason}"
            console.print(told, markup=False, highlight=False)
    for name, share in summary.by_principle.items():
        if share.value < 1:
            console.print(f"{name}: {_passed(share)}", highlight=False)
    if summary.without_examples:
        console.print(
            f"without examples: {', '.join(summary.without_examples)}; nothing shows that the "
            "judge reads them as you do",
            highlight=False,
        )
    if summary.total is None:
        console.print("no example was run")
        return
    weak = f"; {summary.weak} weak: not by each order alone" if summary.weak else ""
    console.print(f"{_passed(summary.total)} (95 % interval){weak}", style="bold", highlight=False)
    remembered = sum(found.remembered for found in outcomes)
    if remembered:
        console.print(f"{remembered} of {len(outcomes)} as before, not asked again")


def _passed(share: Estimate) -> str:
    return f"{round(share.value * share.n)} of {share.n} passed, {_interval(share)}"


def _prob(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(share: Estimate) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.0%}"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


# ── try ──────────────────────────────────────────────────────────────────────────────────────


def print_votes(found: Judgment | Unjudged, console: Console) -> None:
    if isinstance(found, Unjudged):
        console.print(f"no judgment ({found.reason.value}): {found.detail}", markup=False)
        return
    table = Table("principle", "trait", "P(A better)", "order gap")
    for vote in found.votes:
        gap = _prob(vote.order_gap)
        table.add_row(vote.principle_id, vote.trait, f"{vote.prob_a:.3f}", gap)
    console.print(table)
    traits = ", ".join(f"{trait} {prob:.2f}" for trait, prob in found.trait_probs.items())
    console.print(
        f"[bold]{found.verdict.value}[/bold]  P(A better) = {found.prob_a:.3f}  ({traits})"
    )


# ── diff ─────────────────────────────────────────────────────────────────────────────────────


def print_changes(changes: Sequence[PrincipleChange], console: Console) -> None:
    """What the edit says: one line a change, with both texts where words were changed."""
    if not changes:
        console.print("both constitutions say the same: no label can flip")
    for change in changes:
        by_words = change.what in ("added", "removed", "reworded")
        between = "" if by_words or not change.old else f": {change.old} → {change.new}"
        console.print(f"{change.name}: {change.what}{between}", markup=False, highlight=False)
        if by_words:
            for sign, text, style in (("-", change.old, "red"), ("+", change.new, "green")):
                if text:
                    console.print(f"  {sign} {one_line(text, 400)}", style=style, markup=False)


def print_plan(planned: Plan, console: Console) -> None:
    for reason, count in planned.left_out.items():
        console.print(f"{count} labels are not used: {reason}", highlight=False)
    console.print(
        f"{len(planned.labels)} labels; {planned.reads} reads are wanted, {planned.full_reads} to "
        "label them all again",
        highlight=False,
    )


def print_difference(
    found: Difference, planned: Plan, usage: Usage, show: int, console: Console
) -> None:
    share, sizes = found.flip_share, found.move_quantiles
    for reason, count in found.unlabeled.items():
        console.print(f"{count} labels cannot be compared: {reason}", highlight=False)
    if share is None or sizes is None:
        console.print("no label can be compared")
        return
    console.print(
        f"{len(found.flips)} of {len(found.moves)} labels flip, {_interval(share)} "
        "(95 % interval, by prompt)",
        style="bold",
        highlight=False,
    )
    median, most, largest = sizes
    console.print(
        f"|Δp|: median {median:.3f}, nine in ten under {most:.3f}, largest {largest:.3f}",
        highlight=False,
    )
    table = Table("trait", "labels", "flips", "mean |Δp|")
    for trait in found.traits:
        table.add_row(trait.trait, str(trait.labels), str(trait.flips), f"{trait.mean_move:.3f}")
    console.print(table)
    for place, move in enumerate(found.flips[:show], start=1):
        _print_flip(place, move, console)
    if planned.reads:
        known = max(0, planned.reads - usage.reads - usage.stored_reads)
        console.print(
            f"{planned.reads} reads: {usage.reads} computed, {usage.stored_reads} out of the "
            f"server's store, {known} known from an earlier run or an equal pair",
            highlight=False,
        )


def _print_flip(place: int, move: Move, console: Console) -> None:
    console.rule(f"{place}. {move.pair.id}", align="left", style="dim")
    console.print(
        f"P(A better) {move.old.prob_a:.3f} → {move.new.prob_a:.3f}, moved by {move.moved_by} "
        f"({move.parts[move.moved_by]:+.3f})",
        highlight=False,
    )
    for name, text in (
        ("prompt", move.pair.conversation[-1].content),
        ("A", move.pair.response_a),
        ("B", move.pair.response_b),
    ):
        console.print(f"  {name}: {one_line(text, _SHORT)}", markup=False, highlight=False)


def one_line(text: str, length: int) -> str:
    """The text on one line, cut with an ellipsis; control characters cannot reach a terminal."""
    shown = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return shown if len(shown) <= length else shown[: length - 1] + "…"
