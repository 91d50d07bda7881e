"""Settings given as key=value: laid over a base, checked, explained. Imports nothing heavy."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from constitution.errors import UserError
from constitution.validation import field_problems

Config = TypeVar("Config", bound=BaseModel)


class SettingsModel(BaseModel):
    """Base of every config: frozen; unknown keys are refused, renamed ones with their new name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[dict[str, str]] = {}  # old key -> new key

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
        problems = field_problems(error, config, noun="setting")
        raise UserError("\n".join(map(str, problems))) from error


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
