"""field_problems: pydantic's errors as our messages, with numbers and keys checked by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from constitution.validation import field_problems


class Inner(BaseModel):
    model_config: ClassVar = ConfigDict(extra="forbid")
    rank: int = Field(default=8, ge=1)


class Outer(BaseModel):
    model_config: ClassVar = ConfigDict(extra="forbid")
    name: str
    seed: int = 0
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()

    @field_validator("name")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > 3:
            raise ValueError("a name has at most 3 letters")
        return name


def messages(value: Any, noun: str = "setting") -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    return [str(problem) for problem in field_problems(caught.value, Outer, noun)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "a", "sead": 1}, "sead: unknown setting; did you mean 'seed'?"),
        ({"name": "a", "inner": {"rnk": 1}}, "inner.rnk: unknown setting; did you mean 'rank'?"),
        ({"name": "a", "many": [{"rnk": 1}]}, "many.0.rnk: unknown setting; did you mean 'rank'?"),
        ({"name": "a", "zzz": 1}, "zzz: unknown setting; known: inner, many, name, seed"),
        ({}, "name: missing setting"),
        ({"name": "long"}, "name: a name has at most 3 letters (found 'long')"),
        ({"name": "a", "inner": {"rank": 0}},
         "inner.rank: Input should be greater than or equal to 1 (found 0)"),
    ],
)  # fmt: skip
def test_a_problem_names_the_field_what_is_wrong_and_the_value(value, message):
    assert messages(value) == [message]


def test_every_problem_is_listed():
    assert len(messages({"name": "long", "seed": "x", "zzz": 1})) == 3


def test_a_long_value_is_cut():
    (message,) = messages({"name": "a", "seed": "x" * 1000})
    assert len(message) < 200
    assert message.endswith("...)")


def test_the_value_as_a_whole_is_not_quoted():
    (message,) = messages(7)
    assert message.startswith("Input should be a valid dictionary")
