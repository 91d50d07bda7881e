"""The file of measured costs: figures at two sizes, and what they were measured on."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.scale.planning.arithmetic import CostLine, PairCosts
from rlaif.data.journal import SYNC_ENTRIES


class MeasuredCosts(BaseModel):
    """sizes: two numbers of pairs. figures: what each took, by name (`ChainBench.figures`).

    journal_bytes: of a label. fsync_s: of the disk that was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    tokenizer: str
    principles: int
    shard_rows: int
    sizes: tuple[int, int]
    figures: dict[str, tuple[float, float]]
    journal_bytes: float
    fsync_s: float

    @classmethod
    def read(cls, file: Path) -> MeasuredCosts:
        """The costs in a JSON file. Raises OSError or pydantic's ValidationError."""
        return cls.model_validate_json(file.read_bytes())

    def lines(self) -> dict[str, CostLine]:
        """Each figure as a line through both sizes."""
        few, many = self.sizes
        return {
            name: CostLine.through((few, first), (many, second))
            for name, (first, second) in self.figures.items()
        }

    def of_a_pair(self) -> PairCosts:
        """The costs of one more pair. Raises ValueError where the larger size did not take more."""
        each = {name: line.each for name, line in self.lines().items()}
        if less := [name for name, cost in each.items() if cost <= 0]:
            raise ValueError(
                f"{', '.join(less)}: did not grow from {self.sizes[0]} to {self.sizes[1]} pairs; "
                "measure sizes that are further apart"
            )

        def of(kind: str) -> dict[str, float]:
            return {n.removeprefix(kind): cost for n, cost in each.items() if n.startswith(kind)}

        return PairCosts(
            cpu=of("cpu."),
            size=of("size.") | {"journal": self.journal_bytes},
            tokens=each["tokens"],
            reads=each["reads"],
            fsync_s=self.fsync_s,
            fsync_entries=SYNC_ENTRIES,
            shard_rows=self.shard_rows,
        )
