"""Where a server's settings come from, and which of these decided:

    default < the YAML file of --config < RLAIF_SERVE_<FIELD> in the environment < flags

A later source replaces a setting whole; lists are not joined. A key that is no setting is an error
in every source, so a misspelled one never passes for its default. Errors say where the value
stands.

Written by hand, for pydantic-settings tells neither which source a value came from nor its line,
and passes over unknown variables.

Left out: nested settings (there are none), and several files.
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
    """A value as one source has it, and where: "serve.yaml:3", "RLAIF_SERVE_PORT", "--port"."""

    value: Any
    where: str


Source = Mapping[str, Given]


@dataclass(frozen=True, slots=True)
class Configured:
    settings: ServerSettings
    origins: Mapping[str, str]  # each field's name → where its value stands, or "default"


def configure(sources: Sequence[Source]) -> Configured:
    """Settings of sources in rising order of precedence.

    Raises SettingsError, each of its lines beginning with where the wrong value stands.
    """
    given = {name: found for source in sources for name, found in source.items()}
    try:
        settings = ServerSettings(**{name: found.value for name, found in given.items()})
    except SettingsError as error:
        told = []
        for name, problem in error.problems:
            variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
            told.append(
                (name, f"{given[name].where}: {problem}")
                if name in given
                else (name, f"{problem}; set it in a file, as {variable} or by a flag")
            )
        raise SettingsError(told) from None
    origins = {name: DEFAULT for name in ServerSettings.model_fields}
    return Configured(settings, origins | {name: found.where for name, found in given.items()})


def from_file(path: Path) -> Source:
    """The settings of a YAML file: one mapping of names to values and lists of values.

    Raises ServerStartError for a file that cannot be read, is not YAML, or says a thing twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ServerStartError(f"{path}:1: settings are written as 'name: value', one a line")
        found: dict[str, Given] = {}
        for key, value in node.value:
            name, where = str(key.value), f"{path}:{key.start_mark.line + 1}"
            if name in found:
                raise ServerStartError(f"{where}: '{name}' is set again; {found[name].where} did")
            found[name] = Given(loader.construct_object(value, deep=True), where)
    except OSError as error:
        raise ServerStartError(
            f"{path}: the settings cannot be read ({error.strerror}); name another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ServerStartError(f"{path}: settings are UTF-8 text, this file is not") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ServerStartError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ServerStartError(f"{path}: not valid YAML: {error}") from error
    return found


def from_environment(environment: Mapping[str, str]) -> Source:
    """The settings of RLAIF_SERVE_<FIELD>; `null` is no value, a list is separated by commas.

    An empty variable counts as one that is not set.
    """
    found = {}
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and text:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            found[name] = Given(_parse(name, text), f"environment {variable}")
    return found


def from_flags(flags: Mapping[str, tuple[str, Any]]) -> Source:
    """The settings of command-line flags: field → (the flag, its value or None if not given)."""
    return {name: Given(value, flag) for name, (flag, value) in flags.items() if value is not None}


def as_yaml(configured: Configured) -> str:
    """Every setting on a line of its own with its origin; a file for --config."""
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
