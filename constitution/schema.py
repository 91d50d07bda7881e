"""The data model of a constitution: traits, the principles that serve them, and worked examples.

All models are frozen and validated on construction; `constitution.loader` reads them from YAML.
This module depends on pydantic alone, so that a light client can import it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from os import PathLike
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from constitution.consistency import HIGHEST_WEIGHT, LOWEST_WEIGHT, inconsistencies, is_slug
from constitution.errors import nearest

_SEMVER = re.compile(  # semver.org, item 11 and the suggested expression
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)


def _slug(value: str) -> str:
    if not is_slug(value):
        raise ValueError(
            "expected a lower-case letter followed by up to 63 lower-case letters, digits, "
            "'_' or '-'"
        )
    return value


def _semantic_version(value: str) -> str:
    if not _SEMVER.fullmatch(value):
        raise ValueError("expected three numbers, MAJOR.MINOR.PATCH, such as 1.0.0")
    return value


def _weight(value: float) -> float:
    if not LOWEST_WEIGHT <= value <= HIGHEST_WEIGHT:  # also rejects NaN
        raise ValueError(f"expected a number from {LOWEST_WEIGHT:g} to {HIGHEST_WEIGHT:g}")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
OptionalText = Annotated[str, StringConstraints(strip_whitespace=True)]  # may be empty
Slug = Annotated[str, AfterValidator(_slug)]
Version = Annotated[str, AfterValidator(_semantic_version)]
Weight = Annotated[float, Field(strict=True), AfterValidator(_weight)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Value):
    """One turn of a conversation.

    The judge is shown `content` as data: control tokens in it have no effect.
    """

    role: Literal["system", "user", "assistant"]
    content: str


def _text_or_messages(value: Any) -> str:
    return "(messages)" if isinstance(value, list | tuple) else "(text)"


class Example(_Value):
    """A comparison with a known outcome, showing what the principle means in practice.

    `prompt` is a text (a single user turn) or a conversation that ends with a user turn.
    `preferred` is "A", "B" or "TIE"; `note` says why, for people: the judge does not read it.
    """

    prompt: Annotated[
        Annotated[Text, Tag("(text)")] | Annotated[tuple[Message, ...], Tag("(messages)")],
        Discriminator(_text_or_messages),
    ]
    response_a: Text
    response_b: Text
    preferred: Literal["A", "B", "TIE"]
    note: OptionalText = ""

    @field_validator("prompt")
    @classmethod
    def _ends_with_the_user(cls, prompt: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if isinstance(prompt, tuple):
            if not prompt or prompt[-1].role != "user":
                raise ValueError("the last message of a prompt must be from the user")
            if not prompt[-1].content.strip():
                raise ValueError("the last message of the prompt is empty")
        return prompt

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt as messages, also when it was written as text."""
        if isinstance(self.prompt, str):
            return (Message(role="user", content=self.prompt),)
        return self.prompt


class Trait(_Value):
    """A quality that principles serve, such as `honest`; each trait gets its own soft label.

    `weight` multiplies the weights of its principles in the overall label; the trait's own label
    leaves it out.
    """

    weight: Weight = 1.0
    description: OptionalText = ""


class Scope(_Value):
    """The conversations that a principle applies to.

    Those that contain one of `mentions` (any conversation, if that is empty) and none of
    `excludes`. Words and phrases match whole words, ignoring case.
    """

    mentions: tuple[Text, ...] = ()
    excludes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Scope:
        if not self.mentions and not self.excludes:
            raise ValueError(
                "a scope needs words under 'mentions' or 'excludes'; "
                "remove the scope if the principle always applies"
            )
        return self


class Principle(_Value):
    """One rule: `compare` for judging a pair, `critique` and `revise` for improving one reply.

    `trait` names a trait of the constitution. `weight`, 0.001 to 1000, is that of its vote. Without
    a `scope` it applies to every conversation. `examples` are tests of the principle, which
    `rlaif constitution test` runs.
    """

    id: Slug
    trait: Slug
    weight: Weight = 1.0
    compare: Text
    critique: Text
    revise: Text
    scope: Scope | None = None
    examples: tuple[Example, ...] = ()

    def applies_to(self, conversation: Sequence[Message]) -> bool:
        """Whether the conversation is in scope; always true without a scope."""
        if self.scope is None:
            return True
        text = _folded("\n".join(message.content for message in conversation))
        mentions, excludes = _any_of(self.scope.mentions), _any_of(self.scope.excludes)
        if mentions and not mentions.search(text):
            return False
        return not (excludes and excludes.search(text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


@lru_cache(maxsize=1024)
def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    """Matches any of the phrases as whole words in folded text; None without phrases."""
    if not phrases:
        return None
    patterns = (r"\s+".join(map(re.escape, _folded(phrase).split())) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)")


class Constitution(_Value):
    """A named, versioned set of principles.

    >>> constitution = Constitution.load("customer_support")
    >>> constitution.principle("concrete-next-step").trait
    'helpful'

    `version` is MAJOR.MINOR.PATCH, `traits` maps names to traits. Ids are unique, and each trait
    has a principle. The constructor raises pydantic's ValidationError; `load` and `from_yaml` raise
    ConstitutionError, with the line and column of each problem.
    """

    name: Slug
    version: Version
    description: OptionalText = ""
    traits: dict[Slug, Trait] = Field(min_length=1)
    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Constitution:
        problems = list(inconsistencies(self.traits, [(p.id, p.trait) for p in self.principles]))
        if problems:
            raise ValueError("; ".join(f"{i.message} ({i.remedy})" for i in problems))
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the content; layout, comments and the order of keys do not matter.

        The order of principles does matter: a seeded sample of them depends on it.
        """
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; the copy computes its own digest."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied

    @property
    def trait_weights(self) -> dict[str, float]:
        """Each trait's weight by its name, for combining the votes into one label."""
        return {name: trait.weight for name, trait in self.traits.items()}

    @property
    def label_weights(self) -> dict[str, float]:
        """Each trait's weight in a label that all principles vote on: t·Σ w_k, its own weight times
        the sum of its principles' weights."""
        return {
            name: trait.weight * math.fsum(p.weight for p in self.principles if p.trait == name)
            for name, trait in self.traits.items()
        }

    def principle(self, principle_id: str) -> Principle:
        """The principle with that id. Raises KeyError, which suggests the nearest id."""
        for principle in self.principles:
            if principle.id == principle_id:
                return principle
        hint = nearest(principle_id, [p.id for p in self.principles])
        raise KeyError(f"{self.name} has no principle '{principle_id}'; {hint}".rstrip("; "))

    @classmethod
    def load(cls, name_or_path: str | PathLike[str]) -> Constitution:
        """Load a shipped constitution by its bare name, or a YAML file by its path.

        Text that contains '/' or ends in .yaml or .yml is a path. Raises ConstitutionError.
        """
        from constitution.loader import parse_text, read_source

        return parse_text(*read_source(name_or_path), cls)

    @classmethod
    def from_yaml(cls, text: str, source: str = "<text>") -> Constitution:
        """Load a constitution from YAML text; `source` names it in errors.

        Raises ConstitutionError.
        """
        from constitution.loader import parse_text

        return parse_text(text, source, cls)

    @staticmethod
    def keys_at(path: Sequence[str | int]) -> tuple[str, ...]:
        """The keys that the schema allows in the mapping at a path of a constitution."""
        names = tuple(step for step in path if isinstance(step, str))
        models: dict[tuple[str, ...], type[BaseModel]] = {
            (): Constitution,
            ("principles",): Principle,
            ("principles", "scope"): Scope,
            ("principles", "examples"): Example,
            ("principles", "examples", "prompt"): Message,
        }
        model = Trait if names[:1] == ("traits",) and len(names) > 1 else models.get(names)
        return tuple(model.model_fields) if model else ()

    @classmethod
    def library_names(cls) -> tuple[str, ...]:
        """The names of the shipped constitutions, sorted."""
        from constitution.loader import library_names

        return library_names()
