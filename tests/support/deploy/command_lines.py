"""Command lines checked by the parsers of the programs they call; nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

_ASSIGNMENT = re.compile(r"\w+=")


def words_of(line: str) -> list[str]:
    """The words of a shell line's first command: without variables set before it, and without what
    stands behind a pipe, a redirection, `&` or `;`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    ends = [place for place, word in enumerate(words) if re.fullmatch(r"[<>|&;()]+", word)]
    words = words[: ends[0]] if ends else words
    while words and _ASSIGNMENT.match(words[0]):
        del words[0]
    return words


def mistake(words: Sequence[str]) -> str:
    """What is wrong with `rlaif …` or `accelerate launch … -m rlaif …`; "" if nothing is."""
    if list(words[:2]) == ["accelerate", "launch"]:
        return _launch_mistake(words[2:])
    try:
        return _rlaif_mistake(list(words[1:]))
    except SystemExit as error:  # of argparse, or of click for a group alone
        return "" if error.code == 0 else f"exits with {error.code}"
    except Exception as error:
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"


def _launch_mistake(words: Sequence[str]) -> str:
    from accelerate.commands.launch import launch_command_parser

    try:
        found = launch_command_parser().parse_args(list(words))
    except SystemExit:
        return "accelerate launch does not know an option of it"
    if not found.module or found.training_script != "rlaif":
        return "starts something else than `-m rlaif`"
    return mistake(["rlaif", *found.training_script_args])


def _rlaif_mistake(words: list[str]) -> str:
    from judge_service.settings_flags import server_parser

    if words[:1] == ["serve"]:
        server_parser("rlaif serve", "", "", {}).parse_args(words[1:])
        return ""
    command = _commands()
    context = command.make_context("rlaif", words)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    return _unknown_setting(command, context)


@cache
def _commands() -> Any:
    from rlaif.cli.main import app

    return typer.main.get_command(app)


def _unknown_setting(command: Any, context: Any) -> str:
    """The first KEY=VALUE whose key the command's help does not list."""
    if type(command).__name__ != "CommandWithSettings":
        return ""
    settings = context.params.get("settings") or ()
    shown = command.get_help(context) if settings else ""
    for given in settings:
        key = given.partition("=")[0]
        if not re.search(rf"^\s+{re.escape(key)}\b", shown, re.MULTILINE):
            return f"{context.command_path} has no setting {key!r}"
    return ""
