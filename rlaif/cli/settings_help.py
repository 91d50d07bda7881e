"""The settings of a command in its --help, generated from a config class.

    @app.command(cls=command_with_settings("rlaif.algorithms.dpo.config:DPOConfig"))

The class is imported when help is printed: no other command waits for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer

from constitution.errors import UserError
from rlaif.cli.commands import RlaifCommand

if TYPE_CHECKING:
    from rlaif.settings import SettingsModel
    from rlaif.settings_rows import SettingRow

TITLE = "Settings, as KEY=VALUE (and the default's source)"
WIDEST = 120  # columns; wider lines are hard to read


def command_with_settings(config: str) -> type[RlaifCommand]:
    """A command class whose help lists the settings of `config`, given as "module:Class"."""

    class CommandWithSettings(RlaifCommand):
        """A command that takes key=value settings."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.context_settings = {"max_content_width": WIDEST, **self.context_settings}

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """As usual; a setting that is written as a flag is answered with how to write it."""
            try:
                return super().parse_args(ctx, args)
            except typer.BadParameter:
                raise
            except Exception as error:  # click's NoSuchOption, which typer does not export
                flag = getattr(error, "option_name", "")
                key = flag.lstrip("-").replace("-", "_")
                if key and key in _keys(_load(config)):
                    raise UserError(f"{flag} is a setting: write {key}=...") from None
                raise

        def format_options(self, ctx: Any, formatter: Any) -> None:
            """Arguments and options, then the settings."""
            super().format_options(ctx, formatter)
            for title, rows in _sections(_load(config)):
                with formatter.section(title):
                    formatter.write_dl([(row.key, definition(row)) for row in rows])

    return CommandWithSettings


def definition(row: SettingRow) -> str:
    """What is written beside a setting's key: meaning, source of the default, type, default."""
    default = "required" if row.default == "required" else f"default: {row.default}"
    return f"{row.description}  [{row.type}; {default}]"


def _sections(config: type[SettingsModel]) -> list[tuple[str, list[SettingRow]]]:
    from rlaif.settings_rows import setting_rows, variant_rows

    own = [(f"Settings with {key}", rows) for key, rows in variant_rows(config).items()]
    return [(TITLE, setting_rows(config)), *own]


def _keys(config: type[SettingsModel]) -> set[str]:
    return {row.key for _, rows in _sections(config) for row in rows}


def _load(config: str) -> type[SettingsModel]:
    module, _, name = config.partition(":")
    loaded: type[SettingsModel] = getattr(import_module(module), name)
    return loaded
