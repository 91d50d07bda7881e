"""How often two judges name the same winner, over the pairs that both judged.

    p_o    share of pairs with the same winner: the policy, the start, or neither (exactly ½)
    p_e    Σ_k a_k·b_k, what two judges with these shares of winners would have by chance
    kappa  (p_o - p_e) / (1 - p_e): 1 agree always, 0 as by chance        Cohen (1960), Eq. 1

Pairs of equal responses are left out: both judges call them ties without reading. The interval of
p_o is Wilson's over prompts. Judges that agree may share an error, such as a taste for length.

Where judges stopped early, how many pairs they share depends on what they said, so p_o has an
anytime interval: over the prompts, in the order of judging, up to the first at which one of the
judges stopped for one of the policies. That interval holds wherever it is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from rlaif.evaluation.anytime import anytime_estimate
from rlaif.evaluation.comparison import judging_order
from rlaif.evaluation.intervals import Estimate, by_prompt, share_estimate
from rlaif.evaluation.judges.column import JudgeColumn

_Winners = dict[tuple[str, str, int], str]
"""(policy, prompt, index) → who wins, of the pairs with a label."""


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Two judges over the same pairs. kappa: None where chance alone agrees always."""

    first: str
    second: str
    same_winner: Estimate
    by_chance: float
    kappa: float | None
    pairs: int


def agreements(columns: Sequence[JudgeColumn]) -> tuple[JudgeAgreement, ...]:
    """Of every two judges with pairs that both judged."""
    found = (agreement(a, b) for a, b in combinations(columns, 2))
    return tuple(each for each in found if each is not None)


def agreement(first: JudgeColumn, second: JudgeColumn) -> JudgeAgreement | None:
    """How often two judges name the same winner; None if no pair was judged by both."""
    own, other = _winners(first), _winners(second)
    shared, estimate = [key for key in own if key in other], share_estimate
    if ends := [end for column in (first, second) for end in _ends(column)]:
        estimate = anytime_estimate
        shared = [key for key in shared if judging_order(key[1]) <= min(ends)]
        shared.sort(key=lambda key: judging_order(key[1]))
    if not shared:
        return None
    pairs = [(own[key], other[key]) for key in shared]
    kappa, by_chance = cohens_kappa(pairs)
    same = estimate(by_prompt((key[1], float(own[key] == other[key])) for key in shared))
    return JudgeAgreement(first.name, second.name, same, by_chance, kappa, len(pairs))


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> tuple[float | None, float]:
    """(kappa, p_e) of two raters' categories; kappa is None if p_e is 1. pairs: at least one.

    >>> cohens_kappa([("a", "a"), ("b", "b"), ("a", "b"), ("b", "a")])
    (0.0, 0.5)
    """
    count = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(first[category] * second[category] for category in first) / count**2
    observed = sum(a == b for a, b in pairs) / count
    kappa = None if by_chance >= 1 else (observed - by_chance) / (1 - by_chance)
    return kappa, by_chance


def _ends(column: JudgeColumn) -> list[bytes]:
    """Where the judge stopped, for each policy, in the order of judging; empty without looks."""
    looked_at = (
        [judging_order(verdict.prompt) for verdict in policy.verdicts if verdict.look]
        for policy in column.policies
    )
    return [max(asked) for asked in looked_at if asked]


def _winners(column: JudgeColumn) -> _Winners:
    return {
        (policy.name, verdict.prompt, verdict.index): _winner(verdict.prob)
        for policy in column.policies
        for verdict in policy.verdicts
        if verdict.prob is not None
    }


def _winner(prob: float) -> str:
    return "neither" if prob == 0.5 else "policy" if prob > 0.5 else "start"
