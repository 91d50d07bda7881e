"""Settings given as key=value: merged over a base and validated. Imports nothing heavy."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from constitution.errors import UserError
from constitution.validation import field_problems, model_in
from rlaif.plain_yaml import load_yaml

Config = TypeVar("Config", bound=BaseModel)


class InvalidSettingsError(UserError):
    """Settings that cannot be used: the message has a line for each, with the remedy."""


class SettingsModel(BaseModel):
    """Base of every config: frozen; unknown keys are refused, renamed ones with their new name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[dict[str, str]] = {}  # old key -> new key

    @classmethod
    def variant(cls, data: Mapping[str, Any]) -> type[SettingsModel]:
        """The config class that `data` selects, for configs with variants; else `cls`."""
        return cls

    @classmethod
    def variants(cls) -> dict[str, type[SettingsModel]]:
        """The classes that `variant` selects, by the setting that selects each: "loss=robust"."""
        return {}

    @property
    def named_files(self) -> tuple[Path, ...]:
        """Files that settings name, whose content the outcome depends on."""
        return ()

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The valid values of text settings that name an entry of a table, for help."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_renamed(cls, data: Any) -> Any:
        for old in cls.renamed.keys() & (data.keys() if isinstance(data, dict) else set()):
            raise ValueError(
                f"{old} is now called {cls.renamed[old]}: write {cls.renamed[old]}={data[old]}"
            )
        return data


def configured(config: type[Config], settings: list[str] | None, base: dict[str, Any]) -> Config:
    """Validate `base` with key=value settings applied on top; dots reach into nested settings.

    Raises InvalidSettingsError naming the field, the value and the nearest known key.
    """
    merged = merge_settings(base, settings or [])
    try:
        return config.model_validate(merged)
    except ValidationError as error:
        known = partial(_keys_at, config, merged)
        problems = field_problems(error, known, noun="setting")
        raise InvalidSettingsError("\n".join(map(str, problems))) from error


def merge_settings(base: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """A copy of `base` with key=value settings applied, not validated yet; values are YAML.

    >>> merge_settings({"seed": 0}, ["seed=3", "lora.rank=8"])
    {'seed': 3, 'lora': {'rank': 8}}

    Raises UserError for a setting without a key or value, or a value that is not YAML.
    """
    merged = copy.deepcopy(base)
    for setting in settings:
        key, equals, text = str(setting).partition("=")
        if not equals or not key:
            raise InvalidSettingsError(
                f"{setting!r} is not a setting; write key=value, e.g. seed=3"
            )
        place = merged
        *outer, last = key.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if inner is None:
                raise InvalidSettingsError(
                    f"{setting!r}: {part}=null was given, and leaves {part} without settings; "
                    "remove one of the two"
                )
            if not isinstance(inner, dict):
                raise InvalidSettingsError(f"{setting!r}: {part} has no settings of its own")
            place = inner
        try:
            place[last] = load_yaml(text)
        except yaml.YAMLError as error:
            raise InvalidSettingsError(f"{setting!r}: the value is not YAML ({error})") from error
        if isinstance(place[last], str):  # YAML 1.1 reads 1e-4 as text
            place[last] = _number(place[last])
    return merged


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


class Weighted(NamedTuple):
    """A weight and a name, as in "0.5*runs/reward"."""

    weight: float
    name: str


def parse_weighted(
    text: str,
    what: str,
    form: str,
    *,
    negative: bool = False,
    error: type[UserError] = UserError,
) -> Weighted:
    """Parse NAME or WEIGHT*NAME; the default weight is 1.

    what, form: the noun and the placeholder of NAME in errors. negative: also accept weights below
    0. A star after a slash or a colon belongs to the name: "data/a*.jsonl", "kind:a.*b". Raises
    `error` for an invalid weight or an empty name.

    >>> parse_weighted("0.2*books.jsonl", "source", "FILE")
    Weighted(weight=0.2, name='books.jsonl')
    """
    before, star, after = text.partition("*")
    given = bool(star) and not {"/", ":"} & set(before)
    name = (after if given else text).strip()
    try:
        weight = float(before) if given else 1.0
    except ValueError:
        weight = math.nan
    valid = math.isfinite(weight) and (weight != 0 if negative else weight > 0)
    if not (valid and name):
        bound = "WEIGHT a number other than 0" if negative else "WEIGHT > 0"
        raise error(f"invalid {what} {text!r}: expected {form} or WEIGHT*{form} with {bound}")
    return Weighted(weight, name)


class MovingWeight(NamedTuple):
    """A weight in a mix that moves linearly over a run: at its first step, and at its last."""

    first: float
    last: float

    def __str__(self) -> str:
        return f"{self.first:g}..{self.last:g}"


MixWeight = float | MovingWeight


def mix_weight(value: Any) -> MixWeight | None:
    """A weight above 0, or of two of them [first, last] one that moves, of which one may be 0; None
    for anything else.

    >>> mix_weight([1, 0.5])
    MovingWeight(first=1.0, last=0.5)
    """
    if isinstance(value, list | tuple):
        ends = [number for each in value if (number := finite_number(each)) is not None]
        valid = len(value) == len(ends) == 2 and min(ends) >= 0 and max(ends) > 0
        return MovingWeight(*ends) if valid else None
    number = finite_number(value)
    return number if number is not None and number > 0 else None


def finite_number(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def parse_mixed(
    text: str, what: str, form: str, *, error: type[UserError] = UserError
) -> tuple[MixWeight, str]:
    """Parse NAME, WEIGHT*NAME or FIRST..LAST*NAME, a weight that moves over a run; by default 1.

    what, form: as in `parse_weighted`, whose stars count here too. Raises `error`.

    >>> parse_mixed("0..0.5*answers.jsonl", "source", "FILE")
    (MovingWeight(first=0.0, last=0.5), 'answers.jsonl')
    """
    before, star, name = text.partition("*")
    first, dots, last = before.partition("..")
    if not star or not dots or {"/", ":"} & set(before):
        return parse_weighted(text, what, form, error=error)
    try:
        weight = mix_weight([float(first), float(last)])
    except ValueError:
        weight = None
    if weight is None or not name.strip():
        raise error(
            f"invalid {what} {text!r}: expected FIRST..LAST*{form} with weights of 0 or more, not "
            "both 0"
        )
    return weight, name.strip()


def _keys_at(config: type[BaseModel], data: Any, path: Sequence[int | str]) -> list[str]:
    """The keys at a path of nested settings, of the variants that `data` selects."""
    model: Any = _variant(config, data)
    for part in path:
        field = model.model_fields.get(str(part))
        inner = model_in(field.annotation) if field else None
        if inner is None:
            return []
        data = data[part]
        model = _variant(inner, data)
    return list(model.model_fields)


def _variant(config: type[BaseModel], data: Any) -> type[BaseModel]:
    if issubclass(config, SettingsModel) and isinstance(data, dict):
        return config.variant(data)
    return config
