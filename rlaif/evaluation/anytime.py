"""A 95 % interval for a mean in [0, 1] that holds at every look, so that judging may stop early.

Betting confidence sequence (hedged capital, Theorem 3 of arXiv:2010.09686). For a candidate mean m
two gamblers bet on every value X_i before they see it, one that it exceeds m, one that it does not:

    K⁺_t(m) = Π_{i≤t} (1 + λ⁺_i(m)·(X_i - m))     λ⁺_i(m) = min(λ_i, C/m)
    K⁻_t(m) = Π_{i≤t} (1 - λ⁻_i(m)·(X_i - m))     λ⁻_i(m) = min(λ_i, C/(1-m))
    λ_t     = √(2·ln(2/alpha) / (σ²_{t-1}·t·ln(t+1)))              the "predictable plug-in"
    μ_t     = (½ + Σ_{i≤t} X_i) / (t+1)
    σ²_t    = (¼ + Σ_{i≤t} (X_i - μ_i)²) / (t+1)

If m is the mean, each capital reaches 2/alpha with a probability of at most alpha/2, at any time
(Ville's inequality). The interval after t values holds every m that neither has refuted so far; the
true mean is in all of these intervals at once with probability 1 - alpha, whenever one looks and
however one decides to stop. A fixed-n interval (Wilson's) that is looked at again and again until
it excludes ½ does so too often: benchmarks/judge/stopping.py measures both.

Values: one per prompt, in an order that does not depend on them (a seeded shuffle), from prompts
drawn from those that the claim is about. Nothing is assumed of their distribution.

Left out: sampling without replacement from a finite set (section 5 there); the claim is about more
prompts than those at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from constitution.errors import UserError
from rlaif.evaluation.intervals import Estimate

ALPHA = 0.05
C = 0.5  # no bet risks more than this share of the capital; the paper suggests ½ or ¾
_STEPS = 20  # bisections of a bound: to 10⁻⁶, rounded outwards


def anytime_interval(values: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """Bounds of the mean at level 1 - alpha after these values, in their order; (0, 1) for none.

    Longer sequences have narrower intervals: each is inside the one before. Should both gamblers
    refute all means in between, which happens with probability ≤ alpha (or if values drift), the
    bounds are the means that each still allows, in order. Raises ValueError for a value outside
    [0, 1].
    """
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("values must be in [0, 1]")
    bets = _bets(values, alpha)
    low = _lower_bound(values, bets, alpha)
    high = 1 - _lower_bound([1 - value for value in values], bets, alpha)
    return min(low, high), max(low, high)


def anytime_estimate(values: Sequence[float]) -> Estimate:
    """Mean with its 95 % anytime interval. values: one per prompt, in the order of judging."""
    return Estimate(fmean(values), *anytime_interval(values), n=len(values))


SETTLED = "settled"


class StopRuleError(UserError):
    """A rule for when to stop judging that cannot be read; the message says what to write."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a win rate is known well enough: its interval excludes ½, or is `width` wide at most.

    StopRule.parse("settled")    StopRule.parse("0.2")
    """

    width: float | None = None

    @classmethod
    def parse(cls, text: str | float) -> StopRule:
        """`settled`, or a width between 0 and 1. Raises StopRuleError."""
        if text == SETTLED:
            return cls()
        try:
            width = float(text)
        except (TypeError, ValueError):
            width = math.nan
        if isinstance(text, bool) or not 0 < width < 1:
            raise StopRuleError(
                f"invalid until: {text!r}; write settled, to stop when the interval excludes 50 %, "
                "or how wide it may be, such as 0.2 for 20 points"
            )
        return cls(width)

    def __str__(self) -> str:
        return SETTLED if self.width is None else f"{self.width:g}"

    def reached(self, estimate: Estimate) -> bool:
        """Whether an anytime estimate is good enough."""
        low, high = estimate.low, estimate.high
        if low is None or high is None:
            return False
        if self.width is None:
            return not low <= 0.5 <= high
        return high - low <= self.width


def stop_rule(until: str | float | None, *, human: bool, round_robin: bool) -> StopRule | None:
    """The rule that was asked for; None for none. human, round_robin: whether those were asked for,
    too. Raises StopRuleError, also for a combination whose intervals would not hold."""
    if until is None or until == "":
        return None
    rule = StopRule.parse(until)
    for asked, name in ((human, "human"), (round_robin, "round_robin")):
        if asked:
            raise StopRuleError(
                f"until and {name} exclude each other: the intervals of {name} hold for a number "
                "of prompts that is fixed before judging; leave one of them out"
            )
    return rule


def _bets(values: Sequence[float], alpha: float) -> list[float]:
    """λ_1 … λ_n: each from the values before it. The same for 1 - values."""
    bets = []
    total, squares = 0.5, 0.25
    for t, value in enumerate(values, start=1):
        variance = squares / t  # σ²_{t-1}
        bets.append(math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1))))
        total += value
        squares += (value - total / (t + 1)) ** 2
    return bets


def _lower_bound(values: Sequence[float], bets: Sequence[float], alpha: float) -> float:
    """The largest m (but 10⁻⁶) that K⁺ has refuted at any time so far; 0 if it has refuted none.

    K⁺_t(m) falls in m, so does its maximum over t: the refuted means are those below a bound.
    """
    refuted, allowed = 0.0, 1.0
    for _ in range(_STEPS):
        mean = (refuted + allowed) / 2
        if _refutes(values, bets, mean, alpha):
            refuted = mean
        else:
            allowed = mean
    return refuted


def _refutes(values: Sequence[float], bets: Sequence[float], mean: float, alpha: float) -> bool:
    """Whether K⁺(mean) ever reached 2/alpha."""
    capital, target, most = 1.0, 2 / alpha, C / mean
    for value, bet in zip(values, bets, strict=True):
        capital *= 1 + min(bet, most) * (value - mean)
        if capital >= target:
            return True
    return False
