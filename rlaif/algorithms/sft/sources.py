"""The sources that SFT mixes: records to imitate and their share of the rows. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.data.datasets import read_lessons
from rlaif.data.records import Lesson
from rlaif.settings import parse_weighted
from rlaif.training.config import TrainingError


@dataclass(frozen=True, slots=True)
class SFTSource:
    """Records to imitate. name: unique in a mix; weight: relative share of the rows."""

    name: str
    records: Sequence[Lesson]
    weight: float = 1.0

    @classmethod
    def read(cls, text: str) -> SFTSource:
        """Read a source from "FILE" or "WEIGHT*FILE", named after the file without its ending.

        Example: `SFTSource.read("0.2*books.jsonl")`. Raises TrainingError or RecordError.
        """
        weight, file = parse_weighted(text, "source", "FILE", error=TrainingError)
        path = Path(file).expanduser()
        return cls(path.stem, read_lessons(path), weight)
