"""Command-line flags of a judge server, generated from the fields of ServerSettings.

    max_candidates: int          --max-candidates <candidates>
    dtype: Literal[...]          --dtype <auto|bfloat16|...>
    constitutions: tuple         --constitution or -c <name or file>, repeatable
    insecure: bool = False       --insecure
    reflection: bool | None      --reflection, and --no-reflection for False
    store: Path | str | None     --store <file or URL>, and --no-store for null

Groups, units and names that differ from the field's are in the field's `Shown` (settings.py).

`rlaif serve` and `python -m judge_service` use the same parser. It passes texts on as they are:
ServerSettings converts and checks them, as it does the environment's, so that an invalid value gets
the same message wherever it stands.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from constitution.errors import UserError
from judge_service.engines import ENGINES
from judge_service.settings import GROUPS, ServerSettings, Shown
from judge_service.settings_sources import Given, Source

OTHER_FLAGS = {
    "--config": "YAML file of settings; the environment and flags override it.",
    "--print-config": "Print every setting and where its value comes from, then exit.",
    "--probe": "Check whether the server with these settings is serving: exit status 0 or 1.",
    "--help": "Show this message and exit.",
}
"""Flag → help of the flags that are not settings."""

_NEGATED = "no_"  # before a field's name: where argparse keeps that its negation was given


@dataclass(frozen=True, slots=True)
class Flag:
    """The flag of one setting. metavar: of its value, "" for a switch that takes none.

    default: as shown in the help, "" for a required one. choices: the values, where they are few.
    """

    field: str
    group: str
    names: tuple[str, ...]
    help: str
    metavar: str
    default: str
    repeatable: bool
    negation: str
    choices: tuple[str, ...]


class ServerParser(argparse.ArgumentParser):
    """The server's argument parser: wrong usage is one line on standard error and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2; an unknown flag is answered with the nearest known one."""
        before, _, unknown = message.partition("unrecognized arguments: ")
        if unknown and not before:
            name = unknown.split()[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, n=1)
            what = "unknown flag" if name.startswith("-") else "unexpected argument"
            message = f"{what} {name}" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(2, f"error: {message}; `{self.prog} --help` lists the flags\n")


def server_parser(
    prog: str, description: str, examples: str, defaults: Mapping[str, str] | None = None
) -> ServerParser:
    """A parser of every setting's flag, and of --config, --print-config and --probe.

    defaults: what the help shows as a field's default, where the command has its own.
    """
    parser = ServerParser(
        prog=prog,
        usage="%(prog)s [OPTIONS]",
        description=description,
        epilog=examples,
        formatter_class=_Help,
        allow_abbrev=False,  # or a new flag could make an old command line ambiguous
        add_help=False,
    )
    general = parser.add_argument_group("Configuration")
    general.add_argument("--config", type=Path, metavar="<file>", help=OTHER_FLAGS["--config"])
    for name in ("--print-config", "--probe"):
        general.add_argument(name, action="store_true", help=OTHER_FLAGS[name])
    general.add_argument("--help", action="help", help=OTHER_FLAGS["--help"])
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for flag in setting_flags():
        _add(groups[flag.group], flag, (defaults or {}).get(flag.field, flag.default))
    return parser


def from_arguments(arguments: argparse.Namespace) -> Source:
    """The settings that were given as flags. Raises UserError for a flag beside its negation."""
    source: dict[str, Given] = {}
    for flag in setting_flags():
        value = getattr(arguments, flag.field)
        if value is not None:
            source[flag.field] = Given(value, flag.names[0])
        if flag.negation and getattr(arguments, f"{_NEGATED}{flag.field}"):
            if flag.field in source:
                raise UserError(f"{flag.names[0]} and {flag.negation} exclude each other: drop one")
            source[flag.field] = Given(None if flag.metavar else False, flag.negation)
    return source


def setting_flags() -> Iterator[Flag]:
    """A flag for each field of ServerSettings, in its order."""
    for name, field in ServerSettings.model_fields.items():
        shown = next(each for each in field.metadata if isinstance(each, Shown))
        kinds = _kinds(field.annotation)
        choices = tuple(ENGINES) if name == "engine" else _choices(field.annotation)
        yield Flag(
            field=name,
            group=shown.group,
            names=shown.names or (f"--{name.replace('_', '-')}",),
            help=field.description or "",
            metavar="" if bool in kinds else f"<{'|'.join(choices) or shown.unit}>",
            default=_shown_default(field),
            repeatable=tuple in kinds,
            negation=shown.negation,
            choices=choices,
        )


def _kinds(annotation: Any) -> set[Any]:
    """The types that a value may have, without None and without what is inside of them."""
    if get_origin(annotation) in (Union, UnionType):
        return set[Any]().union(*map(_kinds, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return {str}
    return {get_origin(annotation) or annotation} - {type(None)}


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _shown_default(field: FieldInfo) -> str:
    default = field.get_default()
    if field.is_required():
        return ""
    if default is None or default == ():
        return "unset"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else f"{default}"


def _add(group: argparse._ArgumentGroup, flag: Flag, default: str) -> None:
    text = flag.help + (" Repeatable." if flag.repeatable else "")
    text = (text + (f" [default: {default}]" if default else " [required]")).replace("%", "%%")
    if not flag.metavar:
        group.add_argument(
            *flag.names, dest=flag.field, action="store_const", const=True, help=text
        )
    else:
        action = "append" if flag.repeatable else "store"
        group.add_argument(
            *flag.names, dest=flag.field, action=action, metavar=flag.metavar, help=text
        )
    if flag.negation:
        group.add_argument(
            flag.negation,
            dest=f"{_NEGATED}{flag.field}",
            action="store_true",
            help=f"Override {flag.names[0]} of file and environment with "
            f"{'null' if flag.metavar else 'false'}.",
        )


class _Help(argparse.HelpFormatter):
    """Keeps paragraphs, lines of indented examples, and flags whole."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(
            textwrap.indent(each, indent)
            if each.startswith("  ") or "\n  " in each
            else textwrap.fill(
                each,
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            for each in paragraphs
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Wrapped between words, but not inside a short "[default: 1]"."""
        whole = re.sub(r"\[default: (.{,30}\])?", lambda found: found[0].replace(" ", "\xa0"), text)
        lines = textwrap.wrap(whole, width, break_on_hyphens=False)
        return [line.replace("\xa0", " ") for line in lines]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """The flag's names, and once the form of its value: "-c, --constitution <file>"."""
        names = ", ".join(sorted(action.option_strings, key=len))
        return f"{names} {action.metavar}" if action.metavar else names

    def add_usage(
        self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None
    ) -> None:
        super().add_usage(usage, actions, groups, prefix or "Usage: ")
