"""The group `rlaif redteam`, whose first word may be a model in place of a command."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from rlaif.cli.redteam import attack, regressions
from rlaif.cli.settings_help import command_with_settings

DEFAULT = "attack"


class AttackByDefault(TyperGroup):
    """`rlaif redteam MODEL …` is `rlaif redteam attack MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, with the default command where the first word is no command of the group."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=AttackByDefault,
    help="Attack a model by a grid of strategies, and make data and tests of what succeeds.",
    epilog="rlaif redteam MODEL is rlaif redteam attack MODEL. Start here: "
    "rlaif redteam smollm2-135m verdict=rule --dry-run",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command(
    name=DEFAULT,
    cls=command_with_settings("rlaif.redteam.config:RedTeamConfig"),
    epilog="Examples: rlaif redteam smollm2-135m verdict=rule --out redteam; "
    "rlaif redteam org/model -c harmless --judge org/judge --attacker org/attacker --budget 200",
)(attack.attack)
app.command(
    epilog="Example: rlaif redteam adopt redteam/failures.jsonl --twins redteam/twins.jsonl "
    "--train prompts.jsonl --tests regressions.jsonl",
)(regressions.adopt)
app.command(
    cls=command_with_settings("rlaif.redteam.config:CheckConfig"),
    epilog="Example: rlaif redteam check dpo-model regressions.jsonl --junit redteam.xml",
)(regressions.check)
app.command(epilog="Example: rlaif redteam convert regressions.jsonl regressions.yaml")(
    regressions.convert
)
