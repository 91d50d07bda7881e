"""The report of an ablation, as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from constitution.consistency import LOWEST_WEIGHT
from constitution.schema import Constitution
from rlaif.constitution_tools.ablate import (
    Ablated,
    Redundant,
    VoteTable,
    ablate,
    accuracy,
    most_redundant,
)
from rlaif.constitution_tools.reweigh import FEWEST, Refit, refit
from rlaif.evaluation.intervals import Estimate
from rlaif.report.formats import formatted
from rlaif.terminal_tables import print_table

PAIRS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class AblationReport:
    """The results of an ablation; `print` and `as_dict` present them."""

    constitution: Constitution
    labels: int
    left_out: int  # labels of other constitutions
    gold: int  # labels whose right answer is known
    accuracy: Estimate | None  # of the labels; None without gold
    principles: tuple[Ablated, ...]
    redundancy: tuple[Redundant, ...]
    refitted: Refit | None

    @classmethod
    def of(cls, table: VoteTable, constitution: Constitution, left_out: int) -> AblationReport:
        """Compute the report of a table with at least one label, all made by `constitution`."""
        return cls(
            constitution=constitution,
            labels=table.labels,
            left_out=left_out,
            gold=int(table.gold.sum()),
            accuracy=accuracy(table),
            principles=ablate(table),
            redundancy=most_redundant(table),
            refitted=refit(table),
        )

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        refitted = self.refitted and {
            **asdict(self.refitted),
            "file_weights": self.refitted.file_weights(self.constitution),
            "enough": self.refitted.enough,
            "helps": self.refitted.helps,
        }
        return {
            "constitution": self.constitution.name,
            "constitution_sha256": self.constitution.digest,
            "labels": self.labels,
            "labels_of_other_constitutions": self.left_out,
            "labels_with_gold": self.gold,
            "accuracy": self.accuracy and asdict(self.accuracy),
            "principles": [asdict(row) for row in self.principles],
            "redundancy": [asdict(pair) for pair in self.redundancy],
            "refitted": refitted,
        }

    def print(self, console: Console) -> None:
        """Print the report as tables."""
        if self.left_out:
            console.print(
                f"{self.left_out} labels were skipped: made by another constitution than FILE",
                highlight=False,
            )
        console.print(f"{self.labels} labels, {self.gold} of them with gold", highlight=False)
        self._print_principles(console)
        self._print_redundancy(console)
        if self.accuracy is None:
            console.print(
                "without gold, the accuracy of principles and weights is unknown; "
                "provide pairs on these prompts with --gold",
                highlight=False,
            )
            return
        self._print_gold(self.accuracy, console)
        self._print_weights(console)

    def _print_principles(self, console: Console) -> None:
        headings = (
            "principle", "weight", "votes on", "decides", "agrees", "strength", "order gap",
        )  # fmt: skip
        rows = [
            [
                row.principle_id, f"{row.weight:g}", f"{row.votes:.0%}", f"{row.decides:.1%}",
                _estimate(row.agrees, "{:.0%}"), _number(row.strength), _number(row.order_gap),
            ]
            for row in self.principles
        ]  # fmt: skip
        print_table(console, headings, rows, folded={"principle"})

    def _print_redundancy(self, console: Console) -> None:
        if not self.redundancy:
            console.print("no label has votes of two principles, so redundancy is unknown")
            return
        rows = [
            [pair.one, pair.other, f"{pair.r:+.2f}", str(pair.labels)]
            for pair in self.redundancy[:PAIRS_SHOWN]
        ]
        headings = ("most redundant", "with", "r", "labels")
        print_table(console, headings, rows, folded={"most redundant", "with"})

    def _print_gold(self, overall: Estimate, console: Console) -> None:
        rows = [
            [row.principle_id, _estimate(row.alone, "{:.0%}"), _estimate(row.drop, "{:+.1%}")]
            for row in self.principles
        ]
        print_table(
            console,
            ("on gold", "accuracy alone", "accuracy lost without"),
            rows,
            folded={"on gold"},
            total=("all together", _estimate(overall, "{:.0%}"), ""),
        )

    def _print_weights(self, console: Console) -> None:
        refitted = self.refitted
        if refitted is None:
            console.print(
                f"weights were not refitted: {self.gold} labels have gold; at least {FEWEST} are "
                "needed, on two or more prompts",
                highlight=False,
            )
            return
        weights, rows = refitted.file_weights(self.constitution), []
        for principle in self.constitution.principles:
            weight = weights[principle.id]
            shown = f"{weight:.2f}" if weight >= LOWEST_WEIGHT else "remove it"
            rows.append([principle.id, f"{principle.weight:.2f}", shown])
        first = "weight, for unchanged trait weights"
        print_table(console, (first, "in the file", "refitted"), rows, folded={first})
        console.print(
            f"held-back NLL: equal weights {refitted.nll_equal:.3f}, in the file "
            f"{refitted.nll_written:.3f}, refitted {refitted.nll_refitted:.3f}; "
            f"gain {_estimate(refitted.gain, '{:+.3f}')}",
            markup=False,
            highlight=False,
        )
        # A warning or a verdict, so that the weights are not copied without one.
        if not refitted.enough:
            console.print(
                f"too few gold labels for {len(weights)} weights: {refitted.gold}; do not use the "
                "refitted weights with fewer than ten per weight",
                highlight=False,
            )
        elif not refitted.helps:
            console.print(
                "the refitted weights are not significantly better: keep those in the file"
            )


def _estimate(estimate: Estimate | None, number: str) -> str:
    return "-" if estimate is None else formatted(estimate, number.format)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
