"""The page of a comparison: one self-contained HTML file in the style of a run's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from markupsafe import Markup

from rlaif.comparing.result import ArmResult, MethodComparison
from rlaif.comparing.tables import comparison_tables, sentences
from rlaif.data.records import atomic_open
from rlaif.report import figures
from rlaif.report.judged_by import LABELED_TOO
from rlaif.report.page import environment, packaged


def write_page(found: MethodComparison, out: Path) -> Path:
    """Write the page to `out`, atomically. Returns `out`."""
    page = render_page(found)
    with atomic_open(out) as file:
        file.write(page)
    return out


def render_page(found: MethodComparison) -> str:
    """The page as HTML. It loads nothing, and its content security policy forbids all else."""
    rated = [(arm.name, arm.win_rate) for arm in found.trained if arm.win_rate]
    lines = sentences(found)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            win_rates=figures.interval_bars(rated),
            at_equal_length=figures.interval_bars(
                (arm.name, arm.length_controlled) for arm in found.trained
            ),
            met=figures.interval_bars(
                (f"{pair.first} over {pair.second}", pair.win_rate) for pair in found.head_to_head
            ),
            plots=plots(found),
            tables=comparison_tables(found),
            lines=lines,
            warned=[line for line in lines if _is_warning(line)],
            style=Markup(packaged("page.css")),
        )
    )


def plots(found: MethodComparison) -> list[figures.Plot]:
    """The win rate (%) against what it cost: time, and distance from the start."""
    by_time = "Up and to the left is better. Best-of-n trains the reward model alone, and draws "
    by_time += "several responses for every answer."
    by_kl = "Up and to the left is better: more wins at a smaller distance from the start. Of "
    by_kl += "best-of-n an upper bound is shown."
    return [
        *_plot(found, "Win rate (%) by time", "seconds, with the reward model's", by_time, _time),
        *_plot(found, "Win rate (%) by KL", "KL to the start (nats a response)", by_kl, _distance),
    ]


def _plot(
    found: MethodComparison,
    title: str,
    x_label: str,
    caption: str,
    value: Callable[[ArmResult], float | None],
) -> Iterator[figures.Plot]:
    """The plot of the arms that have this value; none where no arm has it."""
    rows = [
        (arm.name, x, arm.win_rate)
        for arm in found.trained
        if arm.win_rate is not None and (x := value(arm)) is not None
    ]
    if rows:
        yield figures.Plot(title, figures.scatter(rows, x_label), caption)


def _time(arm: ArmResult) -> float | None:
    return arm.seconds or None


def _distance(arm: ArmResult) -> float | None:
    if arm.kl_most is not None:
        return arm.kl_most
    return max(0.0, arm.kl.value) if arm.kl is not None else None


def _is_warning(line: str) -> bool:
    return LABELED_TOO in line or line.startswith(("Left out:", "The budget was spent"))
