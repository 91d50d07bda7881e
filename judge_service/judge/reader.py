"""A fitted reader: P(A is better) from everything that the reads of a pair give. Pure.

    z = Σ_j w_j x_j        p = sigmoid(z)        the features x change sign when A and B are swapped

    P/log_odds       l = (d_AB + d_BA) / 2        d: log-odds of A by principle P in that order
    P/log_odds*gap   l tanh(|d_AB - d_BA| / 2)    the same, where the orders disagree
    P/mass           ln m_AB - ln m_BA            m: label mass of the reads in that order
    length           ln (characters of A / characters of B)

Swapping A and B turns d_AB into -d_BA and exchanges the masses, so every x changes its sign to the
last bit. There is no intercept, hence p(A, B) = 1 - p(B, A) exactly. Unlike a curve of
calibration.py, a reader may reverse a verdict: it weighs principles by what they say about gold
labels, and a negative weight of `length` undoes a preference for the longer response. A principle
without a vote adds nothing.

The trait probabilities are those of the trait's own principles and of the length. Left out: any
text but its length, and products of two principles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from judge_service.judge.label_probs import prob_first
from judge_service.types import Order, PrincipleVote, Read

LENGTH = "length"
OF_A_PRINCIPLE = ("log_odds", "log_odds*gap", "mass")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters of both responses, at least 1 each."""

    a: int
    b: int

    @classmethod
    def of(cls, response_a: str, response_b: str) -> Lengths:
        """The lengths of two responses; an empty one counts as one character."""
        return cls(max(1, len(response_a)), max(1, len(response_b)))


def features(votes: Sequence[PrincipleVote], lengths: Lengths) -> dict[str, float]:
    """Feature name → x of the module's equations; each changes its sign with the sides.

    votes: with valid reads in both orders, else the principle is left out.
    """
    found = {LENGTH: math.log(lengths.a) - math.log(lengths.b)}
    for vote in votes:
        by_order = {order: [r for r in vote.reads if r.order is order] for order in Order}
        if not all(by_order.values()):
            continue
        ab = fmean(map(_log_odds_of_first, by_order[Order.AB]))
        ba = -fmean(map(_log_odds_of_first, by_order[Order.BA]))
        log_odds = (ab + ba) / 2
        mass = {order: fmean(map(_log_mass, reads)) for order, reads in by_order.items()}
        values = (log_odds, log_odds * math.tanh(abs(ab - ba) / 2), mass[Order.AB] - mass[Order.BA])
        for name, value in zip(OF_A_PRINCIPLE, values, strict=True):
            found[f"{vote.principle_id}/{name}"] = value
    return found


def _log_odds_of_first(read: Read) -> float:
    return read.logprob_first - read.logprob_second


def _log_mass(read: Read) -> float:
    return math.log(max(read.label_mass, 1e-12))


def _finite(weights: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """Check that every feature is named once and has a finite weight.

    >>> _finite((("length", -0.5),))
    (('length', -0.5),)
    """
    names = [name for name, _ in weights]
    if len(set(names)) != len(names):
        raise ValueError("a feature is named twice")
    if not all(math.isfinite(weight) for _, weight in weights):
        raise ValueError("weights must be finite numbers")
    return weights


@dataclass(frozen=True, slots=True)
class FittedReader:
    """Weights of the features by name; features without a weight do not count."""

    weights: Annotated[tuple[tuple[str, float], ...], AfterValidator(_finite)]
    ridge: Annotated[float, Field(ge=0)]  # strength of the penalty it was fitted with, for people
    command: str = ""  # that fitted it, for people
    kind: Literal["reader"] = "reader"

    def prob_a(self, votes: Sequence[PrincipleVote], lengths: Lengths) -> float:
        """P(A is better); exactly 1 - p with the responses swapped."""
        found = features(votes, lengths)
        z = math.fsum(w * found[name] for name, w in self.weights if name in found)
        # Not prob_first(z, 0) for negative z: 1 - p of the mirrored pair, to the last bit.
        return prob_first(z, 0.0) if z >= 0 else 1.0 - prob_first(-z, 0.0)

    def trait_probs(self, votes: Sequence[PrincipleVote], lengths: Lengths) -> dict[str, float]:
        """P(A is better) by the votes of each trait alone, and the length."""
        traits = sorted({vote.trait for vote in votes})
        return {t: self.prob_a([v for v in votes if v.trait == t], lengths) for t in traits}
