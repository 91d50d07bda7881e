"""Conversations and pairs as token ids. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation with its response, as token ids."""

    id: str  # names the record in errors
    ids: tuple[int, ...]
    start: int  # index of the response's first token: the response is ids[start:]

    @property
    def response_length(self) -> int:
        """Tokens of the response, end token included."""
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference as token ids: two responses to one prompt, with their soft labels."""

    id: str
    chosen: Row
    rejected: Row
    prob_chosen: float  # P(chosen is better)
    traits: dict[str, float | None]  # P(chosen is better) by trait, None where not judged

    @property
    def rows(self) -> tuple[Row, Row]:
        """(chosen, rejected), the order of rows in batches."""
        return self.chosen, self.rejected
