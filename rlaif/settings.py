"""Settings given as key=value: laid over a base, checked, explained. Imports nothing heavy."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from constitution.errors import UserError

Config = TypeVar("Config", bound=BaseModel)


class SettingsModel(BaseModel):
    """Base of every config: frozen; unknown keys are refused, renamed ones with their new name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[dict[str, str]] = {}  # old key -> new key

    @classmethod
    def variant(cls, data: Mapping[str, Any]) -> type[SettingsModel]:
        """The class that holds these settings: of a config with variants, the one they select."""
        return cls

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed(cls, data: Any) -> Any:
        for old in cls.renamed.keys() & (data.keys() if isinstance(data, dict) else set()):
            raise ValueError(
                f"{old} is now called {cls.renamed[old]}: write {cls.renamed[old]}={data[old]}"
            )
        return data


def configured(config: type[Config], settings: list[str] | None, base: dict[str, Any]) -> Config:
    """`base` with key=value settings laid over it, checked. Dots reach into nested settings.

    Raises UserError naming the field, the value and the nearest known key.
    """
    merged = merge_settings(base, settings or [])
    try:
        return config.model_validate(merged)
    except ValidationError as error:
        raise UserError(explain(error, config, merged)) from error


def merge_settings(base: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{setting!r} is not a setting; write key=value, e.g. seed=3")
        place = merged
        *outer, last = key.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"{setting!r}: {part} has no settings of its own")
            place = inner
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{setting!r}: the value is not YAML ({error})") from error
        if isinstance(place[last], str):  # YAML 1.1 reads 1e-4 as text
            place[last] = _number(place[last])
    return merged


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def explain(error: Any, config: type[BaseModel], data: Any) -> str:
    """A pydantic error about `data` as one line per field, with the nearest key for an unknown
    one."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _keys_at(config, problem["loc"][:-1], data)
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            lines.append(f"{where}: unknown setting; {hint}")
        elif not where:  # of several settings together: the validator's own sentence names them
            lines.append(problem["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"{where}: {problem['msg']} (found {problem.get('input')!r})")
    return "\n".join(lines)


def _keys_at(config: type[BaseModel], path: tuple[int | str, ...], data: Any) -> list[str]:
    """The keys known at a place of the settings, of the variant that `data` selects there."""
    model: Any = _variant(config, data)
    for part in path:
        kind = model.model_fields[str(part)].annotation
        kinds = get_args(kind) or (kind,)  # X | None: the settings of X
        data = data[part]
        model = _variant(next(k for k in kinds if hasattr(k, "model_fields")), data)
    return list(model.model_fields)


def _variant(config: type[BaseModel], data: Any) -> type[BaseModel]:
    if issubclass(config, SettingsModel) and isinstance(data, dict):
        return config.variant(data)
    return config
