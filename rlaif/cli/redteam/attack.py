"""`rlaif redteam attack`: attacks on a model over a grid of topics and strategies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from constitution.errors import UserError
from rlaif.cli import complete
from rlaif.cli.judge.options import longest_wait, suggest_wait
from rlaif.cli.options import (
    DEFAULT_SERVER,
    ConstitutionName,
    OutFolder,
    OwnJudge,
    Server,
    Settings,
    Wait,
    WaitTimeout,
    output,
)

if TYPE_CHECKING:
    from rlaif.redteam.attack import AttackPlan
    from rlaif.redteam.config import RedTeamConfig

Model = Annotated[
    str,
    typer.Argument(
        help="The model to attack: short name, folder or hub id.",
        autocompletion=complete.models,
    ),
]


def attack(
    model: Model,
    settings: Settings = None,
    constitution: ConstitutionName = "",
    attacker: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that words the requests anew, or a YAML file of topics and strategies. "
            "May be given twice, for both. Without a model the file's own words are tried.",
            metavar="MODEL|FILE.yaml",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Prompts tried at most; by default one for every cell of the grid."),
    ] = None,
    out: OutFolder = Path("redteam"),
    judge: OwnJudge = "",
    server: Server = DEFAULT_SERVER,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the grid and what it costs, and stop.")
    ] = False,
) -> None:
    """Attack a model: every topic by every strategy, the best prompt kept for each.

    Writes attacks.jsonl, failures.jsonl (what succeeded, by rule and by the judge) and twins.jsonl
    (benign neighbors, against over-refusal). A killed run resumes. No prompt or response is printed
    or logged.
    """
    from rlaif.api.redteam.attacking import red_team
    from rlaif.models import catalog
    from rlaif.redteam.attack import plan_attack
    from rlaif.redteam.records import FAILURES
    from rlaif.redteam.strategies import load_strategies

    writer, file = _attackers(attacker or ())
    config = _config(settings or [], budget, file)
    by_rule = config.verdict == "rule"
    if dry_run:
        plan = plan_attack(load_strategies(config.strategies), config)
        for name in filter(None, (model, writer)):
            catalog.resolve(name)
        _show(plan, model, writer, "" if by_rule else judge or server)
        return
    longest = longest_wait(wait, wait_timeout)
    asked = {} if by_rule else {"judge": judge, "server": "" if judge else server}
    with nullcontext() if by_rule else suggest_wait(judge, server, longest):
        done = red_team(
            model, attacker=writer, out=out, constitution=constitution, wait=longest, config=config,
            **asked,
        )  # fmt: skip
    for sentence in done.sentences():
        output().print(sentence, highlight=False, soft_wrap=True)
    output().print(f"{done.succeeded} failures: {out / FAILURES}", highlight=False, soft_wrap=True)


def _attackers(given: Sequence[str]) -> tuple[str, str]:
    """(model, strategies file) among what was given; "" for none. Raises UserError."""
    from rlaif.redteam.strategies import is_strategies_file

    files = [each for each in given if is_strategies_file(each)]
    models = [each for each in given if not is_strategies_file(each)]
    for what, each in (("strategies file", files), ("model", models)):
        if len(each) > 1:
            raise UserError(f"--attacker: more than one {what}: {', '.join(each)}; give one")
    return (models or [""])[0], (files or [""])[0]


def _config(settings: list[str], budget: int | None, file: str) -> RedTeamConfig:
    """The settings, with those that have a flag of their own."""
    from rlaif.redteam.config import RedTeamConfig
    from rlaif.settings import configured

    keys = {setting.partition("=")[0] for setting in settings}
    base: dict[str, object] = {}
    for key, flag, value in (("budget", "--budget", budget), ("strategies", "--attacker", file)):
        if value not in (None, ""):
            if key in keys:
                raise UserError(f"{key} is given by {flag} and as a setting; remove one of the two")
            base[key] = value
    return configured(RedTeamConfig, settings, base)


def _show(plan: AttackPlan, model: str, writer: str, judge: str) -> None:
    """What would be tried and what it costs; names and counts only."""
    from rlaif.redteam.families import side_of

    cells = plan.cells
    topics = list(dict.fromkeys(cell.topic.id for cell in cells))
    strategies = list(dict.fromkeys(cell.strategy for cell in cells))
    wordings = sum(len(cell.strategy.templates) for cell in cells)
    listed = ", ".join(f"{s.id} ({side_of(s.family_name)})" for s in strategies)
    tries = plan.budget if writer else min(plan.budget, wordings)
    lines = [
        f"grid: {len(topics)} topics x {len(strategies)} strategies = {len(cells)} cells",
        f"topics: {', '.join(topics)}",
        f"strategies, with the side of their family: {listed}",
        f"{model} would answer at most {tries} attacks and {len(cells)} benign twins",
        f"attacker: {writer}" if writer else f"attacker: none; the file has {wordings} wordings",
        f"verdict: {plan.config.verdict}, " + (f"judge: {judge}" if judge else "no judge"),
    ]
    for line in lines:
        output().print(line, highlight=False, soft_wrap=True)
