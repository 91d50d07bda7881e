"""WEIGHT*THING, as rewards and SFT's sources are named, and key=value."""

from __future__ import annotations

import pytest

from constitution.errors import UserError
from rlaif.settings import Weighted, merge_settings, parse_weighted


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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9" * 5000, "is not a value that can be read; correct it, or quote it if it is text"),
        ("2020-13-45", "2020-13-45 is not a value that can be read"),
        ("[" * 3000, "nested too deeply; check its brackets"),
        ("{a: 1, a: 2}", "a is given twice; rename or remove one"),
        ("{[a]: 1}", "found unhashable key"),
    ],
)
def test_settings_a_value_that_yaml_cannot_read_is_refused_in_words(value, message):
    with pytest.raises(UserError) as error:
        merge_settings({}, [f"seed={value}"])
    assert message in str(error.value)
    assert "the value is not YAML" in str(error.value)


@pytest.mark.parametrize(
    ("base", "settings"), [({}, ["lora=null", "lora.rank=4"]), ({"lora": None}, ["lora.rank=4"])]
)
def test_a_setting_of_what_was_set_to_null_is_refused_with_that_reason(
    base: dict[str, object], settings: list[str]
) -> None:
    with pytest.raises(UserError, match=r"'lora.rank=4': lora=null was given, and leaves lora"):
        merge_settings(base, settings)
    with pytest.raises(UserError, match=r"'seed.x=4': seed has no settings of its own"):
        merge_settings({"seed": 0}, ["seed.x=4"])
