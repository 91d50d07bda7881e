"""WEIGHT*THING, as rewards and SFT's sources are named."""

from __future__ import annotations

import pytest

from constitution.errors import UserError
from rlaif.settings import Weighted, parse_weighted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", (1.0, "a.jsonl")),
        ("0.5*a.jsonl", (0.5, "a.jsonl")),
        (" 2 * a.jsonl ", (2.0, "a.jsonl")),
        ("data/a*b.jsonl", (1.0, "data/a*b.jsonl")),
        ("3*data/a*b.jsonl", (3.0, "data/a*b.jsonl")),
        ("kind:a.*b", (1.0, "kind:a.*b")),
        ("2*kind:a.*b", (2.0, "kind:a.*b")),
    ],
)
def test_a_weight_stands_before_the_first_star(text: str, expected: tuple[float, str]) -> None:
    assert parse_weighted(text, "source", "FILE") == Weighted(*expected)


@pytest.mark.parametrize("text", ["half*a", "0*a", "-1*a", "nan*a", "inf*a", "*a", "2*", "", " "])
def test_what_has_no_positive_weight_or_no_name_is_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_weighted(text, "source", "FILE")
    expected = f"invalid source {text!r}: expected FILE or WEIGHT*FILE with WEIGHT > 0"
    assert str(error.value) == expected


def test_a_negative_weight_is_valid_where_it_may_be() -> None:
    assert parse_weighted("-0.5*f", "reward", "SOURCE", negative=True) == Weighted(-0.5, "f")
    with pytest.raises(UserError, match="WEIGHT a number other than 0"):
        parse_weighted("0*f", "reward", "SOURCE", negative=True)
