"""All that an ablation finds, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from constitution.schema import LOWEST_WEIGHT, Constitution
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

PAIRS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class AblationReport:
    law: Constitution
    labels: int
    left_out: int  # labels of other constitutions
    gold: int  # labels whose right answer is known
    accuracy: Estimate | None  # of the labels as they are; None without gold
    principles: tuple[Ablated, ...]
    redundancy: tuple[Redundant, ...]
    refitted: Refit | None

    @classmethod
    def of(cls, table: VoteTable, law: Constitution, left_out: int) -> AblationReport:
        """The table holds at least one label, made under `law`."""
        return cls(
            law=law,
            labels=table.labels,
            left_out=left_out,
            gold=int(table.gold.sum()),
            accuracy=accuracy(table),
            principles=ablate(table),
            redundancy=most_redundant(table),
            refitted=refit(table),
        )

    def as_dict(self) -> dict[str, Any]:
        refitted = self.refitted and {
            **asdict(self.refitted),
            "file_weights": self.refitted.file_weights(self.law),
            "enough": self.refitted.enough,
            "helps": self.refitted.helps,
        }
        return {
            "constitution": self.law.name,
            "constitution_sha256": self.law.digest,
            "labels": self.labels,
            "labels_of_other_constitutions": self.left_out,
            "labels_with_gold": self.gold,
            "accuracy": self.accuracy and asdict(self.accuracy),
            "principles": [asdict(row) for row in self.principles],
            "redundancy": [asdict(pair) for pair in self.redundancy],
            "refitted": refitted,
        }

    def print(self, console: Console) -> None:
        if self.left_out:
            console.print(
                f"{self.left_out} labels are not used: made under another constitution than FILE",
                highlight=False,
            )
        console.print(f"{self.labels} labels, {self.gold} of them with gold", highlight=False)
        self._print_principles(console)
        self._print_redundancy(console)
        if self.accuracy is None:
            console.print(
                "without gold it cannot be told which principle is right, nor which weights are, "
                "only what each decides; give pairs on these prompts with --gold",
                highlight=False,
            )
            return
        self._print_gold(self.accuracy, console)
        self._print_weights(console)

    def _print_principles(self, console: Console) -> None:
        table = Table(
            "principle", "weight", "votes on", "decides", "with the rest", "strength", "gap"
        )
        for row in self.principles:
            table.add_row(
                row.principle_id, f"{row.weight:g}", f"{row.votes:.0%}", f"{row.decides:.1%}",
                _estimate(row.agrees, "{:.0%}"), _number(row.strength), _number(row.order_gap),
            )  # fmt: skip
        console.print(table)

    def _print_redundancy(self, console: Console) -> None:
        if not self.redundancy:
            console.print("no two principles vote on one label: nothing to say of redundancy")
            return
        table = Table("most alike", "", "r", "labels")
        for pair in self.redundancy[:PAIRS_SHOWN]:
            table.add_row(pair.one, pair.other, f"{pair.r:+.2f}", str(pair.labels))
        console.print(table)

    def _print_gold(self, whole: Estimate, console: Console) -> None:
        table = Table("on gold", "accuracy alone", "accuracy lost without it")
        for row in self.principles:
            alone, drop = _estimate(row.alone, "{:.0%}"), _estimate(row.drop, "{:+.1%}")
            table.add_row(row.principle_id, alone, drop)
        table.add_section()
        table.add_row("all together", _estimate(whole, "{:.0%}"), "")
        console.print(table)

    def _print_weights(self, console: Console) -> None:
        found = self.refitted
        if found is None:
            console.print(
                f"weights are not refitted: {self.gold} labels with gold, {FEWEST} on two or more "
                "prompts are the fewest",
                highlight=False,
            )
            return
        table = Table("weight, with its trait's as it is", "written", "refitted")
        weights = found.file_weights(self.law)
        for principle in self.law.principles:
            weight = weights[principle.id]
            refitted = f"{weight:.2f}" if weight >= LOWEST_WEIGHT else "remove it"
            table.add_row(principle.id, f"{principle.weight:.2f}", refitted)
        console.print(table)
        console.print(
            f"held-back NLL: equal weights {found.nll_equal:.3f}, written {found.nll_written:.3f}, "
            f"refitted {found.nll_refitted:.3f}; gain {_estimate(found.gain, '{:+.3f}')}",
            highlight=False,
        )
        if not found.enough:
            console.print(
                f"{found.gold} gold labels are too few for {len(weights)} weights: do not trust "
                "them yet; ten for each weight is the rule of thumb",
                highlight=False,
            )
        elif not found.helps:
            console.print("gold cannot tell the refitted weights from the written: keep those")


def _estimate(found: Estimate | None, number: str) -> str:
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return number.format(found.value)
    low, high = number.format(found.low), number.format(found.high)
    return f"{number.format(found.value)} \\[{low}, {high}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
