"""What a constitution is: traits, principles that serve them, and worked examples of each.

Everything here is a frozen value that was checked when it was made; `constitution.loader` reads
it from YAML. This module needs pydantic only, so that a light client can import it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from os import PathLike
from typing import Annotated, Any, Literal

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

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.001, 1000.0

_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_SEMVER = re.compile(  # semver.org, item 11 and the suggested expression
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError(
            "a name is a lower-case letter, then up to 63 lower-case letters, digits, '_' or '-'"
        )
    return value


def _semantic_version(value: str) -> str:
    if not _SEMVER.fullmatch(value):
        raise ValueError("a version is three numbers, MAJOR.MINOR.PATCH, such as 1.0.0")
    return value


def _weight(value: float) -> float:
    if not LOWEST_WEIGHT <= value <= HIGHEST_WEIGHT:  # also refuses NaN
        raise ValueError(f"a weight is a number from {LOWEST_WEIGHT:g} to {HIGHEST_WEIGHT:g}")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Remark = Annotated[str, StringConstraints(strip_whitespace=True)]  # a text that may be empty
Slug = Annotated[str, AfterValidator(_slug)]
Version = Annotated[str, AfterValidator(_semantic_version)]
Weight = Annotated[float, Field(strict=True), AfterValidator(_weight)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Value):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def _text_or_messages(value: Any) -> str:
    return "(messages)" if isinstance(value, list | tuple) else "(text)"


class Example(_Value):
    """A comparison whose outcome is known: what the principle means in practice.

    `prompt` is the user's only turn as text, or a conversation that ends with the user's turn.
    """

    prompt: Annotated[
        Annotated[Text, Tag("(text)")] | Annotated[tuple[Message, ...], Tag("(messages)")],
        Discriminator(_text_or_messages),
    ]
    response_a: Text
    response_b: Text
    preferred: Literal["A", "B", "TIE"]
    note: Remark = ""

    @field_validator("prompt")
    @classmethod
    def _ends_with_the_user(cls, prompt: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if isinstance(prompt, tuple):
            if not prompt or prompt[-1].role != "user":
                raise ValueError("the last message of a prompt must be the user's")
            if not prompt[-1].content.strip():
                raise ValueError("the last message of the prompt is empty")
        return prompt

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt as messages, whichever way it was written."""
        if isinstance(self.prompt, str):
            return (Message(role="user", content=self.prompt),)
        return self.prompt


class Trait(_Value):
    """A quality that principles serve, such as `honest`; one soft label is made for each."""

    weight: Weight = 1.0
    description: Remark = ""


class Scope(_Value):
    """Which conversations a principle is about: those that mention one of `mentions` (any, when
    empty) and none of `excludes`. Words and phrases match whole words, whatever their case.
    """

    mentions: tuple[Text, ...] = ()
    excludes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Scope:
        if not self.mentions and not self.excludes:
            raise ValueError(
                "a scope needs words under 'mentions' or 'excludes'; "
                "leave the scope out for a principle that always applies"
            )
        return self


class Principle(_Value):
    """One rule: `compare` for judging a pair, `critique` and `revise` for mending one reply."""

    id: Slug
    trait: Slug
    weight: Weight = 1.0
    compare: Text
    critique: Text
    revise: Text
    scope: Scope | None = None
    examples: tuple[Example, ...] = ()

    def applies_to(self, conversation: Sequence[Message]) -> bool:
        """Whether the scope admits the conversation; without a scope, always."""
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
    """Matches any phrase as whole words in folded text; None when there is no phrase."""
    if not phrases:
        return None
    spelled = (r"\s+".join(map(re.escape, _folded(phrase).split())) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)")


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Parts that are right each by itself and wrong together; `path` leads to the part to mend."""

    path: tuple[str | int, ...]
    message: str
    remedy: str


def inconsistencies(
    traits: Iterable[str], principles: Sequence[tuple[str, str]]
) -> Iterator[Inconsistency]:
    """Repeated ids, principles of unknown traits, traits without principle.

    `principles` holds (id, trait) of each; "" stands for one that could not be read.
    """
    known = set(traits)
    served = {trait for _, trait in principles}
    seen: set[str] = set()
    unknown = 0
    for index, (name, trait) in enumerate(principles):
        if name and name in seen:
            message = f"the id '{name}' belongs to an earlier principle already"
            remedy = "give each principle its own id"
            yield Inconsistency(("principles", index, "id"), message, remedy)
        seen.add(name)
        if trait and trait not in known:
            guess = nearest(trait, sorted(known)) if unknown < 3 else ""  # guessing is slow
            remedy = guess or "declare it under 'traits'"
            unknown += 1
            path = ("principles", index, "trait")
            yield Inconsistency(path, f"unknown trait '{trait}'", remedy)
    if served <= known:  # else the trait without principle may be one that was mistyped
        for trait in sorted(known - served):
            message = f"no principle serves the trait '{trait}'"
            remedy = "write a principle for it, or delete the trait"
            yield Inconsistency(("traits", trait), message, remedy)


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean …?', or "" when nothing is near; bounded work, for words from anywhere."""
    candidates = {name[:32]: name for name in islice(known, 32)}
    matches = difflib.get_close_matches(word[:32], candidates, n=1, cutoff=0.6)
    return f"did you mean '{candidates[matches[0]]}'?" if matches else ""


class Constitution(_Value):
    """A named, versioned set of principles.

    >>> law = Constitution.load("customer_support")
    >>> law.principle("concrete-next-step").trait
    'helpful'
    """

    name: Slug
    version: Version
    description: Remark = ""
    traits: dict[Slug, Trait] = Field(min_length=1)
    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Constitution:
        found = list(inconsistencies(self.traits, [(p.id, p.trait) for p in self.principles]))
        if found:
            raise ValueError("; ".join(f"{i.message} ({i.remedy})" for i in found))
        return self

    @property
    def digest(self) -> str:
        """sha256 (hex) of the content: layout, comments and the order of keys do not count.

        The order of principles does: a seeded sample of them depends on it.
        """
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def trait_weights(self) -> dict[str, float]:
        return {name: trait.weight for name, trait in self.traits.items()}

    def principle(self, principle_id: str) -> Principle:
        """The principle of that id. Raises KeyError, naming the nearest id."""
        for principle in self.principles:
            if principle.id == principle_id:
                return principle
        hint = nearest(principle_id, [p.id for p in self.principles])
        raise KeyError(f"{self.name} has no principle '{principle_id}'; {hint}".rstrip("; "))

    @classmethod
    def load(cls, name_or_path: str | PathLike[str]) -> Constitution:
        """A shipped constitution by its bare name, or a YAML file by its path.

        Text with a '/' or ending in .yaml or .yml is a path. Raises ConstitutionError.
        """
        from constitution.loader import load

        return load(name_or_path)

    @classmethod
    def library_names(cls) -> tuple[str, ...]:
        """The names of the constitutions that ship."""
        from constitution.loader import library_names

        return library_names()
