"""Rounds in words, as a table, and as curves: judges, reward model, KL, and planted gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.rounds.result import RoundResult, RoundsSummary
from rlaif.report import figures
from rlaif.report.formats import format_number, format_percent, format_signed
from rlaif.report.tables import ResultTable

_SHARE = (0.0, 1.0)


def round_sentence(found: RoundResult) -> str:
    """A round against the start and the round before, and whether it is the last."""
    rates = ", ".join(
        f"{format_percent(rate)} by {judge}"
        for judge, rate in zip(found.judges, found.against_start, strict=True)
    )
    text = f"Round {found.number}: win rate against the start {rates}"
    if found.number > 1:
        text += f"; against round {found.number - 1} {format_percent(found.against_before)}"
    if found.gold_gain is not None:
        text += f"; gold (planted) {format_signed(found.gold_gain)} against the start"
    return f"{text}. {_capital(found.ended)}." if found.ended else f"{text}."


def rounds_sentences(found: RoundsSummary) -> list[str]:
    """Which round is kept, and why the rounds ended."""
    kept = found.rounds[found.kept - 1]
    gained = kept.without_gain == 0
    why = "" if gained else ", the first one, because no round shows a gain"
    return [f"Kept: round {found.kept}{why}. {_capital(found.ended)}."]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def rounds_table(found: RoundsSummary) -> ResultTable:
    """One row per round, with 95 % intervals; columns that were not measured are left out."""
    first = found.rounds[0]
    columns: list[tuple[str, Callable[[RoundResult], str]]] = [
        ("round", lambda r: f"{r.number}{' (kept)' if r.number == found.kept else ''}"),
        *(
            (f"against the start, {judge}", _by_judge(place))
            for place, judge in enumerate(first.judges)
        ),
        ("against the round before", lambda r: format_percent(r.against_before)),
    ]
    if first.wins.reward is not None:
        columns += [
            ("reward wins", lambda r: format_percent(r.wins.reward)),
            ("reward gain", lambda r: format_signed(r.reward_gain)),
        ]
    if first.gold is not None:
        columns += [
            ("gold (planted)", lambda r: format_number(r.gold)),
            ("gold wins (planted)", lambda r: format_percent(r.wins.gold)),
        ]
    if first.wins.gap is not None:
        columns.append(("reward less gold wins", lambda r: format_signed(r.wins.gap)))
    if first.refusals_safe is not None:
        columns.append(("safe prompts refused", lambda r: format_percent(r.refusals_safe)))
    if first.refusals_harmful is not None:
        columns.append(("harmful prompts refused", lambda r: format_percent(r.refusals_harmful)))
    columns += [
        ("KL k1", lambda r: format_number(r.kl.k1 if r.kl else None)),
        ("tokens", lambda r: f"{r.mean_tokens:.0f}"),
    ]
    rows = tuple(tuple(cell(each) for _, cell in columns) for each in found.rounds)
    return ResultTable("Rounds", tuple(name for name, _ in columns), rows)


def _by_judge(place: int) -> Callable[[RoundResult], str]:
    return lambda found: format_percent(found.against_start[place])


def rounds_plots(found: RoundsSummary) -> list[figures.Plot]:
    """The curves over rounds of what was measured in them."""
    rounds = found.rounds
    made = [
        _plot(
            rounds, f"win rate against the start, by {judge}", _rate_of(place), 0.5,
            "Rises, and flattens when nothing more is gained. Above the dashed line the policy is "
            "better than the start.",
        )
        for place, judge in enumerate(rounds[0].judges)
    ]  # fmt: skip
    made += [
        _plot(
            rounds, "win rate against the round before", lambda r: r.against_before, 0.5,
            "Falls to the dashed line: then a round gains nothing over the one before.",
        ),
        _plot(
            rounds, "reward model: wins over the start (share)", lambda r: r.wins.reward, 0.5,
            "What the reward model of each round believes of its policy. If it rises and the "
            "judges' curves do not, the policy exploits its errors.",
        ),
        _plot(
            rounds, "gold wins over the start (planted, share)", lambda r: r.wins.gold, 0.5,
            "What is truly better, known because the judge is planted.",
        ),
        _plot(
            rounds, "reward wins less gold wins (planted)", lambda r: r.wins.gap, 0.0,
            "Near the dashed line: the reward model is right. Above it, it is exploited.",
        ),
        _plot(
            rounds, "safe prompts refused (share)", lambda r: r.refusals_safe, None,
            "Low and steady: refusing what is harmless is over-refusal. Found by rule.",
        ),
        _plot(
            rounds, "KL to the start (k1, nats per response)",
            lambda r: r.kl.k1 if r.kl else None, None,
            "How far the policy has moved. With start: last it adds up over rounds.",
        ),
    ]  # fmt: skip
    return [plot for plot in made if plot is not None]


def _rate_of(place: int) -> Callable[[RoundResult], Estimate | None]:
    return lambda found: found.against_start[place]


def _plot(
    rounds: Sequence[RoundResult],
    title: str,
    value: Callable[[RoundResult], Estimate | None],
    level: float | None,
    caption: str,
) -> figures.Plot | None:
    points = [(float(r.number), found.value) for r in rounds if (found := value(r)) is not None]
    if not points:
        return None
    svg, legend = figures.curve(
        points, "round", title, min_span=0.2, bounds=_SHARE if level == 0.5 else None, level=level
    )
    return figures.Plot(title, svg, caption, tuple(each for each in legend if each[0] == "level"))
