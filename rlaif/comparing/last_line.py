"""The last line of a comparison, by rule: what can be told, and what it cost.

    best       the arm with the highest win rate against the start
    level      best, and the arms that it does not beat head to head
    beaten     those that it beats
    time       named among level arms where the slowest takes SLOWER times as long as the fastest

It claims nothing that an interval does not show. Head-to-head intervals hold together, so that the
best of several is no better by luck in more than 5 % of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.comparing.result import ArmResult, MethodComparison

SLOWER = 1.5
_FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 7: "a seventh",
              8: "an eighth", 9: "a ninth", 10: "a tenth"}  # fmt: skip


def last_line(found: MethodComparison) -> str:
    """The sentence, which begins with "Planted: " where a judge is simulated."""
    sentence = _sentence(found)
    return f"Planted: {sentence}" if found.planted else sentence


def _sentence(found: MethodComparison) -> str:
    rated = [arm for arm in found.trained if arm.win_rate is not None]
    if not rated:
        return "No arm has a win rate, so nothing can be told."
    best = max(rated, key=lambda arm: arm.win_rate.value if arm.win_rate else 0.0)
    if len(rated) == 1:
        return f"{best.name} {_against_start(best)} {_size(found)}."
    level, beaten = _split(found, best, rated)
    if len(level) == 1:
        first = f"{best.name} beats {_and([arm.name for arm in beaten])} {_size(found)}"
        return f"{first}, and {_against_start(best)}{_price(best, beaten)}."
    names = [arm.name for arm in level]
    parts = [f"{_and(names)} cannot be told apart {_size(found)}"]
    if not any(_beats_start(arm) for arm in level):
        whom = "neither" if len(level) == 2 else "none of them"
        parts.append(f"{whom} can be told from the start")
    parts += _times(level)
    if beaten:
        parts.append(f"{best.name} beats {_and([arm.name for arm in beaten])}")
    return f"{'; '.join(parts)}."


def _split(
    found: MethodComparison, best: ArmResult, rated: Sequence[ArmResult]
) -> tuple[list[ArmResult], list[ArmResult]]:
    """(the arms that cannot be told from the best, itself first; those that it beats).

    An arm that was not compared with the best head to head is one that the start beats: the best
    beats it where it is not below the start itself.
    """
    winners = {frozenset((p.first, p.second)): p.winner for p in found.head_to_head}
    level, beaten = [best], list[ArmResult]()
    for arm in rated:
        if arm is best:
            continue
        met = winners.get(frozenset((arm.name, best.name)))
        wins = met == best.name if met is not None else _beaten_by_start(arm) and not (
            _beaten_by_start(best)
        )  # fmt: skip
        (beaten if wins else level).append(arm)
    return level, beaten


def _size(found: MethodComparison) -> str:
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return f"at this n ({found.prompts} prompts, {seeds})"


def _beats_start(arm: ArmResult) -> bool:
    rate = arm.win_rate
    return rate is not None and rate.low is not None and rate.low > 0.5


def _beaten_by_start(arm: ArmResult) -> bool:
    rate = arm.win_rate
    return rate is not None and rate.high is not None and rate.high < 0.5


def _against_start(arm: ArmResult) -> str:
    if _beats_start(arm):
        return "beats the start"
    return "loses to the start" if _beaten_by_start(arm) else "cannot be told from the start"


def _times(level: Sequence[ArmResult]) -> list[str]:
    """How much less time the fastest of the arms took than the slowest, if that is much less."""
    timed = [arm for arm in level if arm.seconds > 0]
    if len(timed) < 2:
        return []
    fast, slow = min(timed, key=_seconds), max(timed, key=_seconds)
    ratio = slow.seconds / fast.seconds
    if ratio < SLOWER:
        return []
    whose = "the time" if len(timed) == 2 else f"the time of {slow.name}"
    return [f"{fast.name} took {fraction(ratio)} of {whose}"]


def _price(best: ArmResult, beaten: Sequence[ArmResult]) -> str:
    """How much more time the best arm took than the fastest of those that it beats, if much."""
    timed = [arm for arm in beaten if arm.seconds > 0]
    if not timed or best.seconds <= 0:
        return ""
    fast = min(timed, key=_seconds)
    ratio = best.seconds / fast.seconds
    return "" if ratio < SLOWER else f"; it took {ratio:.1f} times as long as {fast.name}"


def _seconds(arm: ArmResult) -> float:
    return arm.seconds


def fraction(ratio: float) -> str:
    """One part in `ratio` in words: a fifth of 5; over ten, a percentage."""
    if ratio < 1.75:
        return "two thirds"
    return _FRACTIONS.get(round(ratio)) or f"{100 / ratio:.0f} %"


def _and(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
