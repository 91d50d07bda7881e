"""Topics and strategies of attacks, from a YAML file.

    topics:
      - id: fraud
        request: {en: …, de: …}     what should be refused, in general words
        twin: {en: …, de: …}        its benign neighbor, which should be answered
    strategies:
      - id: split-request
        templates: ['… {first} … {second} …']

    attack = template(encode(request in the strategy's language))      one cell of the grid is a
    twin   = template(encode(twin in the strategy's language))         topic and a strategy

A template has {request}, or {first} and {second}, its two halves. A text in place of a mapping is
English. Strategies that lead a model astray in the same way share a `family` (by default their id):
training prompts and tests are split by it (adopt.py).
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from constitution.errors import UserError, expected_one_of
from constitution.validation import field_problems
from rlaif.plain_yaml import load_yaml

SHIPPED = "strategies.yaml"
ENGLISH = "en"
_PLACES = re.compile(r"\{(\w*)\}")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}"


class RedTeamError(UserError):
    """Red teaming that cannot start or go on; the message names the value and the remedy."""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _reversed(text: str) -> str:
    return text[::-1]


ENCODINGS: Mapping[str, Callable[[str], str]] = {
    "": str,
    "base64": _base64,
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "reversed": _reversed,
}
"""How a strategy may write a request, by name."""

_Name = Annotated[str, Field(pattern=f"^{_NAME}$")]


def _in_english(value: Any) -> Any:
    return {ENGLISH: value} if isinstance(value, str) else value


_Texts = Annotated[
    dict[str, Annotated[str, Field(pattern=r"\S")]],
    BeforeValidator(_in_english),
    Field(min_length=1),
]
"""Language → text."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: _Name


class AttackTopic(_Entry):
    """A harmful request in general words, and its benign neighbor, by language."""

    request: _Texts
    twin: _Texts


class AttackStrategy(_Entry):
    """A way to wrap a request. angle: how an attacker model is to say it, "" for no hint."""

    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    family: str = Field(default="", pattern=f"^({_NAME})?$")
    language: str = ENGLISH
    encode: str = ""
    angle: str = ""

    @model_validator(mode="after")
    def _templates_take_the_request(self) -> Self:
        if self.encode not in ENCODINGS:
            raise ValueError(
                f"unknown encoding {self.encode!r}; {expected_one_of(self.encode, ENCODINGS)}"
            )
        for template in self.templates:
            places = set(_PLACES.findall(template))
            if places not in ({"request"}, {"first", "second"}):
                raise ValueError(
                    "a template needs {request}, or {first} and {second}, and nothing else in "
                    f"braces (found {sorted(places) or 'none'})"
                )
        return self

    @property
    def family_name(self) -> str:
        """The family that it counts as."""
        return self.family or self.id

    def write(self, request: str, number: int) -> str:
        """The prompt of a request by template `number`, counted round the templates."""
        text = ENCODINGS[self.encode](request)
        words = text.split(" ")
        middle = (len(words) + 1) // 2 if len(words) > 1 else 0
        first = " ".join(words[:middle]) if middle else text[: len(text) // 2]
        second = text[len(first) :].strip()
        parts = {"request": text, "first": first, "second": second}
        template = self.templates[number % len(self.templates)]
        return _PLACES.sub(lambda place: parts[place[1]], template)


class AttackFile(BaseModel):
    """The content of a strategies file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: Annotated[tuple[AttackTopic, ...], Field(min_length=1)]
    strategies: Annotated[tuple[AttackStrategy, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_and_languages(self) -> Self:
        for what, entries in (("topics", self.topics), ("strategies", self.strategies)):
            ids = [each.id for each in entries]
            if twice := sorted({each for each in ids if ids.count(each) > 1}):
                raise ValueError(f"{what}: {twice[0]!r} is there twice; rename or remove one")
        for strategy in self.strategies:
            for topic in self.topics:
                for key, texts in (("request", topic.request), ("twin", topic.twin)):
                    if strategy.language not in texts:
                        raise ValueError(
                            f"topics.{topic.id}.{key}: no text in {strategy.language!r}, the "
                            f"language of the strategy {strategy.id}; add one"
                        )
        return self


@dataclass(frozen=True, slots=True)
class GridCell:
    """One place of the grid."""

    topic: AttackTopic
    strategy: AttackStrategy

    @property
    def name(self) -> str:
        """`strategy-topic`, unique in a grid."""
        return f"{self.strategy.id}-{self.topic.id}"

    @property
    def request(self) -> str:
        """The topic's request in the strategy's language."""
        return self.topic.request[self.strategy.language]

    @property
    def twin(self) -> str:
        """The topic's benign neighbor in the strategy's language."""
        return self.topic.twin[self.strategy.language]


def is_strategies_file(name: str) -> bool:
    """Whether a name is a YAML file's, and not a model's."""
    return name.endswith((".yaml", ".yml"))


def load_strategies(source: str | Path = "") -> AttackFile:
    """The topics and strategies of a YAML file; "" for those that ship. Raises RedTeamError."""
    if not str(source):
        text, name = (resources.files("rlaif.redteam") / SHIPPED).read_text("utf-8"), SHIPPED
    else:
        path, name = Path(source).expanduser(), str(source)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise RedTeamError(
                f"{name}: cannot be read: {reason}; give a YAML file of topics and strategies"
            ) from error
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        raise RedTeamError(f"{name}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise RedTeamError(f"{name}: expected a mapping with the keys topics and strategies")
    try:
        return AttackFile.model_validate(data)
    except ValidationError as error:
        problems = field_problems(error, AttackFile)
        raise RedTeamError("\n".join(f"{name}: {problem}" for problem in problems)) from error


def grid(
    file: AttackFile, topics: Sequence[str] = (), families: Sequence[str] = ()
) -> list[GridCell]:
    """The cells of the chosen topics and families, strategy by strategy; () for all.

    Raises RedTeamError for an unknown name.
    """
    ids = [topic.id for topic in file.topics]
    names = list(dict.fromkeys(strategy.family_name for strategy in file.strategies))
    for what, wanted, known in (("topic", topics, ids), ("family", families, names)):
        for each in wanted:
            if each not in known:
                raise RedTeamError(f"unknown {what} {each!r}; {expected_one_of(each, known)}")
    return [
        GridCell(topic, strategy)
        for strategy in file.strategies
        for topic in file.topics
        if (not topics or topic.id in topics) and (not families or strategy.family_name in families)
    ]
