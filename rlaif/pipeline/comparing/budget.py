"""Budgets of a comparison: what the labels may cost, and what each training may."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from constitution.errors import UserError, expected_one_of

FORMS: dict[str, Callable[[str], float]] = {"reads": int, "tokens": int, "seconds": float}


@dataclass(frozen=True, slots=True)
class Budget:
    """reads: of the judge, for the labels that all arms share. tokens, seconds: of each training
    (`budget_tokens`, `budget_seconds` of rlaif/training/config.py); None: no limit."""

    reads: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Budget:
        """From ["reads=4000", "seconds=60"]. Raises UserError naming the text and the remedy.

        >>> Budget.parse(["reads=4000", "seconds=60"])
        Budget(reads=4000, tokens=None, seconds=60.0)
        """
        given: dict[str, float] = {}
        for text in texts:
            name, _, number = text.partition("=")
            if name not in FORMS:
                raise UserError(
                    f"--budget {text}: unknown budget {name!r} (write it as --budget seconds=60); "
                    f"{expected_one_of(name, FORMS)}"
                )
            if name in given:
                raise UserError(f"--budget {text}: {name} is given twice; remove one of them")
            try:
                value = FORMS[name](number)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value > 0):
                whole = "a whole number" if FORMS[name] is int else "a number"
                raise UserError(f"--budget {text}: expected {whole} over 0, as in {name}=1000")
            given[name] = value
        return cls(**given)  # type: ignore[arg-type]

    @property
    def of_training(self) -> dict[str, float]:
        """The settings of a trainer that enforce it."""
        limits = {"budget_tokens": self.tokens, "budget_seconds": self.seconds}
        return {name: value for name, value in limits.items() if value is not None}

    @property
    def given(self) -> dict[str, float]:
        """Name → limit, of those that were given."""
        named = {"reads": self.reads, "tokens": self.tokens, "seconds": self.seconds}
        return {name: value for name, value in named.items() if value is not None}
