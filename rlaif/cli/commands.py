"""What every command has in common, added to the whole tree of commands in one place.

invalid choice      suggests the nearest one
--ca, --token       for each command with --server or --reward, which may call a judge server
Ctrl-C              says what has been saved and what to do next, and exits with 130
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from constitution.errors import UserError, nearest
from rlaif.cli.interrupt import after_interrupt

ASK_A_SERVER = {"server", "rewards"}  # parameters of commands that may call a judge server

Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="PEM file with the authority of the server's certificate; turns TLS on. "
        "[env var: RLAIF_CA]",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        metavar="@FILE|TOKEN",
        help="The token that the server requires. Prefer @FILE: other users of this machine can "
        "see a token given here itself. [env var: RLAIF_TOKEN]",
    ),
]
_CREDENTIALS = [
    inspect.Parameter("ca", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Authority),
    inspect.Parameter("token", inspect.Parameter.KEYWORD_ONLY, default="", annotation=Token),
]


def prepare(app: typer.Typer) -> None:
    """Give every command of `app`, and of the groups in it, what all of them have in common."""
    for command in app.registered_commands:
        if command.cls is None or not issubclass(command.cls, RlaifCommand):
            command.cls = RlaifCommand
        if command.callback and ASK_A_SERVER & {*inspect.signature(command.callback).parameters}:
            command.callback = _with_credentials(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            prepare(group.typer_instance)


class RlaifCommand(TyperCommand):
    """A command that suggests the nearest choice, and answers Ctrl-C with what to do next."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does; an invalid choice is answered with the nearest one."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = with_nearest_choice(error.message)
            raise

    def invoke(self, ctx: Any) -> Any:
        """As click does; Ctrl-C is answered with what has been saved."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
                print(f"\n{after_interrupt(command_name(ctx), ctx.params)}", file=sys.stderr)
            raise typer.Exit(130) from None


def command_name(ctx: Any) -> str:
    """The command's words without the program's: "train dpo"."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names)


def with_nearest_choice(message: str) -> str:
    """An error about a choice, with the nearest one: "'trll' is not one of 'trl', 'jsonl'"."""
    message = message.removeprefix("Value error, ")
    found = re.fullmatch(r"'(?P<given>.*)' is not one of (?P<known>'.*')\.?", message)
    near = nearest(found["given"], re.findall(r"'([^']*)'", found["known"])) if found else ""
    return f"{message.rstrip('.')}; {near}" if near else message


def _with_credentials(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with --ca and --token, which apply to every judge server that it calls."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_them(*, ca: Path | None, token: str, **arguments: Any) -> None:
        if ca is None and not token:
            return command(**arguments)
        # Imported only now: it imports gRPC, which `rlaif --help` must not.
        from rlaif.feedback.connection import credentials_given

        with credentials_given(token=read_token(token), ca=ca):
            return command(**arguments)

    parameters = [*signature.parameters.values(), *_CREDENTIALS]
    with_them.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_them


def read_token(argument: str) -> str:
    """The token, or that in the file of @FILE. Raises UserError; errors never repeat a token."""
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(
            f"--token: the file cannot be read ({why}): {path}; give a file that holds the token "
            "that `rlaif token new` printed"
        ) from None
    if not token:
        raise UserError(
            f"--token: the file is empty: {path}; write the token that `rlaif token new` printed "
            "into it"
        )
    return token
