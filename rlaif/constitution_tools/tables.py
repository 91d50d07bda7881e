"""Tables of test outcomes, votes and differences for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from judge_service.types import Judgment, Unjudged, Usage
from rlaif.constitution_tools.changes import PrincipleChange
from rlaif.constitution_tools.diff import Difference, Move, Plan
from rlaif.constitution_tools.examples import ExampleOutcome, ExampleResult, ExamplesSummary
from rlaif.evaluation.intervals import Estimate
from rlaif.terminal_tables import print_table

_COLORS = {
    ExampleResult.PASSED: "green",
    ExampleResult.WEAK: "yellow",
    ExampleResult.FAILED: "bold red",
    ExampleResult.UNJUDGED: "bold red",
}
_OUTCOME_HEADINGS = (
    "principle", "example", "expected", "P(expected)", "A first", "B first", "spread", "result",
)  # fmt: skip
_FLIP_CHARACTERS = 300  # of each text shown with a flip


# ── test ─────────────────────────────────────────────────────────────────────────────────────


def print_outcomes(
    outcomes: Sequence[ExampleOutcome], summary: ExamplesSummary, console: Console
) -> None:
    """Print the outcome of each example, then the shares of passes."""
    rows: list[list[str | Text]] = []
    for outcome in outcomes:
        expected = "TIE, P(A)" if outcome.preferred == "TIE" else outcome.preferred
        probs = (outcome.prob, outcome.prob_ab, outcome.prob_ba, outcome.spread)
        result = Text(outcome.result, style=_COLORS[outcome.result])
        number = str(outcome.number)
        rows.append([outcome.principle_id, number, expected, *map(_prob, probs), result])
    if outcomes:
        print_table(console, _OUTCOME_HEADINGS, rows, folded={"principle"})
    # Then what the table cannot show: reasons, and the shares of the principles with a failure.
    for outcome in outcomes:
        if outcome.result is ExampleResult.UNJUDGED:
            reason = f"{outcome.principle_id}, example {outcome.number}: {outcome.reason}"
            console.print(reason, markup=False, highlight=False)
    for name, share in summary.by_principle.items():
        if share.value < 1:
            console.print(f"{name}: {_passed(share)}", highlight=False)
    if summary.without_examples:
        console.print(
            f"principles without examples: {', '.join(summary.without_examples)}; add examples to "
            "test how the judge reads them",
            highlight=False,
        )
    if summary.total is None:
        console.print("no examples were run")
        return
    weak = f"; {summary.weak} weak (not in each order alone)" if summary.weak else ""
    console.print(f"{_passed(summary.total)} (95 % interval){weak}", style="bold", highlight=False)
    remembered = sum(outcome.remembered for outcome in outcomes)
    if remembered:
        console.print(f"{remembered} of {len(outcomes)} unchanged, not judged again")


def _passed(share: Estimate) -> str:
    return f"{round(share.value * share.n)} of {share.n} passed, {_interval(share)}"


def _prob(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(share: Estimate) -> str:
    if share.low is None or share.high is None:
        return f"{share.value:.0%}"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


# ── try ──────────────────────────────────────────────────────────────────────────────────────


def print_votes(answer: Judgment | Unjudged, console: Console) -> None:
    """Print the votes and the verdict, or the reason why there is no judgment."""
    if isinstance(answer, Unjudged):
        console.print(f"no judgment ({answer.reason.value}): {answer.detail}", markup=False)
        return
    rows = [
        [vote.principle_id, vote.trait, f"{vote.prob_a:.3f}", _prob(vote.order_gap)]
        for vote in answer.votes
    ]
    headings = ("principle", "trait", "P(A better)", "order gap")
    print_table(console, headings, rows, folded={"principle", "trait"})
    traits = ", ".join(f"{trait} {prob:.2f}" for trait, prob in answer.trait_probs.items())
    console.print(
        f"[bold]{answer.verdict.value}[/bold]  P(A better) = {answer.prob_a:.3f}  ({traits})"
    )


# ── diff ─────────────────────────────────────────────────────────────────────────────────────


def print_changes(changes: Sequence[PrincipleChange], console: Console) -> None:
    """Print one line per change, with both texts for changes of wording."""
    if not changes:
        console.print("the constitutions are equal: no label can flip")
    for change in changes:
        is_text = change.what in ("added", "removed", "reworded")
        between = "" if is_text or not change.old else f": {change.old} → {change.new}"
        console.print(f"{change.name}: {change.what}{between}", markup=False, highlight=False)
        if is_text:
            for sign, text, style in (("-", change.old, "red"), ("+", change.new, "green")):
                if text:
                    console.print(f"  {sign} {one_line(text, 400)}", style=style, markup=False)


def print_plan(planned: Plan, console: Console) -> None:
    """Print how many labels are usable, and how many reads are needed."""
    for reason, count in planned.left_out.items():
        console.print(f"{count} labels were skipped: {reason}", highlight=False)
    console.print(
        f"{len(planned.labels)} labels; {planned.reads} reads are needed, against "
        f"{planned.full_reads} to label them all again",
        highlight=False,
    )


def print_difference(
    difference: Difference, planned: Plan, usage: Usage, show: int, console: Console
) -> None:
    """Print the share of flips, the sizes of the changes, and the `show` most confident flips."""
    share, sizes = difference.flip_share, difference.move_quantiles
    for reason, count in difference.unlabeled.items():
        console.print(f"{count} labels cannot be compared: {reason}", highlight=False)
    if share is None or sizes is None:
        console.print("no labels can be compared")
        return
    console.print(
        f"{len(difference.flips)} of {len(difference.moves)} labels flip, {_interval(share)} "
        "(95 % interval, by prompt)",
        style="bold",
        highlight=False,
    )
    median, most, largest = sizes
    console.print(
        f"|Δp|: median {median:.3f}, 90th percentile {most:.3f}, largest {largest:.3f}",
        highlight=False,
    )
    # Details: each trait, the flips in full, and where the reads came from.
    rows = [
        [trait.trait, str(trait.labels), str(trait.flips), f"{trait.mean_move:.3f}"]
        for trait in difference.traits
    ]
    print_table(console, ("trait", "labels", "flips", "mean |Δp|"), rows, folded={"trait"})
    for place, move in enumerate(difference.flips[:show], start=1):
        _print_flip(place, move, console)
    if planned.reads:
        known = max(0, planned.reads - usage.reads - usage.stored_reads)
        console.print(
            f"{planned.reads} reads: {usage.reads} computed, {usage.stored_reads} from the "
            f"server's store, {known} from an earlier run or an identical pair",
            highlight=False,
        )


def _print_flip(place: int, move: Move, console: Console) -> None:
    console.rule(style="dim")  # without a title, which would be cut to the width
    console.print(f"{place}. {move.pair.id}", markup=False, highlight=False)
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
        line = f"  {name}: {one_line(text, _FLIP_CHARACTERS)}"
        console.print(line, markup=False, highlight=False)


def one_line(text: str, length: int) -> str:
    """The text on one line, cut with an ellipsis; control characters become spaces."""
    shown = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return shown if len(shown) <= length else shown[: length - 1] + "…"
