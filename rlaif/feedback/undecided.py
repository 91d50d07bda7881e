"""Labels that hardly tell the responses apart: how many there are, and when to say so.

    H(p) = -p·log₂ p - (1 - p)·log₂(1 - p)      bits; 1 at p = ½, where a label says nothing

A label is undecided when its prob_chosen is within BAND of ½. Imports no torch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

BAND = 0.05
"""An undecided label is at most this far from ½: over 0.99 of a bit."""

REPORTED_SHARE = 0.8
"""The share of undecided labels from which on a set is reported."""


def entropy(prob: float) -> float:
    """H(prob) in bits. Example: entropy(0.5) == 1.0, entropy(1.0) == 0.0."""
    return -sum(p * math.log2(p) for p in (prob, 1.0 - prob) if p > 0.0)


@dataclass(slots=True)
class Decisiveness:
    """Running share of undecided labels, and their mean entropy in bits."""

    labels: int = 0
    undecided: int = 0
    entropy: float = 0.0  # the sum

    def add(self, prob_chosen: float) -> None:
        """Include one label."""
        self.labels += 1
        self.undecided += abs(prob_chosen - 0.5) <= BAND + 1e-9
        self.entropy += entropy(prob_chosen)

    @property
    def mean_entropy(self) -> float | None:
        """Bits; None without labels."""
        return self.entropy / self.labels if self.labels else None

    def warning(self) -> str:
        """A line for users where most labels are undecided, or ""."""
        return undecided_warning(self.undecided, self.labels, self.mean_entropy)


def undecided_warning(undecided: int, labels: int, mean_entropy: float | None) -> str:
    """The line of `Decisiveness.warning`, from its figures."""
    if not labels or mean_entropy is None or undecided < REPORTED_SHARE * labels:
        return ""
    return (
        f"{undecided} of {labels} labels hardly prefer a response: prob_chosen is within {BAND:g} "
        f"of 0.5 (mean entropy {mean_entropy:.3f} of 1 bit), and training learns little from them; "
        "give a stronger judge, plainer principles, or responses that differ more (a higher "
        "temperature)"
    )


def undecided_in(probs: Iterable[float]) -> str:
    """The warning about labels with these prob_chosen, or ""."""
    found = Decisiveness()
    for prob in probs:
        found.add(prob)
    return found.warning()


def report_undecided(warning: str) -> None:
    """Print a warning on stderr, unless it is empty; only the main process prints."""
    if warning and os.environ.get("RANK", "0") == "0":
        print(warning, file=sys.stderr)
