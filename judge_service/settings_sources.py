"""The sources of a server's settings, in rising precedence.

    default < the YAML file of --config < RLAIF_SERVE_<FIELD> in the environment < flags

A later source replaces a setting as a whole; lists are not joined. An unknown name is an error in
every source, so a misspelled setting never silently keeps its default. Errors name the place of the
value.

Not pydantic-settings, because it reports neither the source of a value nor its line, and ignores
unknown variables. Left out: nested settings (there are none), and several files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import yaml

from judge_service.errors import ServerStartError
from judge_service.settings import ServerSettings, SettingsError

ENVIRONMENT_PREFIX = "RLAIF_SERVE_"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Given:
    """A value and its place in a source: "serve.yaml:3", "RLAIF_SERVE_PORT", "--port"."""

    value: Any
    where: str


Source = Mapping[str, Given]


@dataclass(frozen=True, slots=True)
class Configured:
    """The settings in force, and where each value comes from."""

    settings: ServerSettings
    origins: Mapping[str, str]  # each field's name → the place of its value, or "default"


def configure(sources: Sequence[Source]) -> Configured:
    """The settings of these sources, in rising precedence.

    Raises SettingsError, each line of which begins with the place of an invalid value.
    """
    given = {name: value for source in sources for name, value in source.items()}
    try:
        settings = ServerSettings(**{name: each.value for name, each in given.items()})
    except SettingsError as error:
        raise SettingsError(
            (name, _with_place(name, problem, given)) for name, problem in error.problems
        ) from None
    origins = {name: DEFAULT for name in ServerSettings.model_fields}
    return Configured(settings, origins | {name: each.where for name, each in given.items()})


def _with_place(name: str, problem: str, given: Source) -> str:
    if name in given:
        return f"{given[name].where}: {problem}"
    return f"{problem}; set it in a file, as {ENVIRONMENT_PREFIX}{name.upper()} or by a flag"


def from_file(path: Path) -> Source:
    """The settings of a YAML file: one mapping of names to values and lists of values.

    Raises ServerStartError for a file that cannot be read, is not YAML, or sets a name twice.
    """
    # The YAML nodes, and not the loaded values, know their lines.
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ServerStartError(f"{path}:1: settings are written as 'name: value', one a line")
        settings: dict[str, Given] = {}
        for key, value in node.value:
            name, where = str(key.value), f"{path}:{key.start_mark.line + 1}"
            if name in settings:
                earlier = settings[name].where
                raise ServerStartError(f"{where}: '{name}' is set again; first set at {earlier}")
            settings[name] = Given(loader.construct_object(value, deep=True), where)
    except OSError as error:
        raise ServerStartError(
            f"{path}: the settings cannot be read ({error.strerror}); name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ServerStartError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ServerStartError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ServerStartError(f"{path}: not valid YAML: {error}") from error
    return settings


def from_environment(environment: Mapping[str, str]) -> Source:
    """The settings of RLAIF_SERVE_<FIELD>: `null` is None, a list is separated by commas.

    An empty variable counts as unset.
    """
    settings = {}
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and text:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            settings[name] = Given(_parse(name, text), f"environment {variable}")
    return settings


def from_flags(flags: Mapping[str, tuple[str, Any]]) -> Source:
    """The settings of command-line flags: field → (the flag, its value or None if absent)."""
    return {name: Given(value, flag) for name, (flag, value) in flags.items() if value is not None}


def as_yaml(configured: Configured) -> str:
    """Every setting on its own line with its origin: a valid file for --config."""
    values = configured.settings.model_dump(mode="json")
    return "".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}  # {configured.origins[name]}\n"
        for name, value in values.items()  # JSON is YAML
    )


def _parse(name: str, text: str) -> Any:
    field = ServerSettings.model_fields.get(name)
    if text == "null":
        return None
    if field is not None and get_origin(field.annotation) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
