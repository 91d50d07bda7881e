"""Untrusted text: hostile YAML is rejected after little work, and only with ConstitutionError."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from constitution import Constitution, ConstitutionError
from constitution.strict_yaml import MAX_BYTES
from tests.support.steps import steps

GOOD = """\
name: small
version: 1.0.0
traits:
  kind: {weight: 1.0}
principles:
  - id: calm
    trait: kind
    compare: Prefer the calm reply.
    critique: Find haste.
    revise: Calm it.
    examples:
      - prompt: Quick!
        response_a: Let us look together.
        response_b: Hurry up.
        preferred: A
"""


HOSTILE = {
    "10 MB in one text": "a: " + "x" * 10_000_000,
    "10 MB of items": "- a\n" * 2_500_000,
    "deep brackets": "[" * 500_000,
    "deep braces": "{a: " * 100_000,
    "deep dashes": "- " * 300_000,
    "a merge bomb": "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 30)),
    "a billion laughs": "a0: &a0 x\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "repeated keys": "a: 1\n" * 200_000,
    "unknown keys": "".join(f"nam{i}: 1\n" for i in range(60_000)),
    "empty principles": "principles:\n" + "- {}\n" * 250,
    "empty examples in many principles": "principles:\n"
    + ("- examples: [" + "{}, " * 100 + "]\n") * 50,
    "near traits": f"traits: {{{', '.join(f'{chr(97) * 60}{i:03}: {{}}' for i in range(250))}}}\n"
    + "principles:\n"
    + "".join(f"- {{id: p{i}, trait: {'a' * 59}{i:04}}}\n" for i in range(250)),
    "a long line feed": "a: |\n" + " x\n" * 300_000,
    "an open quote": 'a: "' + "\\n" * 500_000,
}


MOST_STEPS = 500_000  # of Python, about 50 ms; the costliest of these takes 350 000


@pytest.mark.timeout(120)  # work inside libyaml or one regular expression is not counted
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml_is_rejected_in_few_steps(text: str) -> None:
    def refuse() -> None:
        with pytest.raises(ConstitutionError):
            Constitution.from_yaml(text)

    assert steps(refuse) < MOST_STEPS


# Untrusted text raises nothing but ConstitutionError.

_YAML_PIECES = st.sampled_from(
    [*string.printable, "\n  ", ": ", "- ", "? ", "&a ", "*a", "!!str ", "<<", "---\n", "|\n",
     ">\n", "%YAML 1.2\n", "\\u0000", "\ud800", "\x00", "\ufeff", "é", "traits", "1.0", "no"]
)  # fmt: skip


def refusal(text: str) -> ConstitutionError | None:
    try:
        Constitution.from_yaml(text)
    except ConstitutionError as error:
        return error
    return None


@given(st.one_of(st.text(), st.lists(_YAML_PIECES, max_size=60).map("".join)))
def test_any_text_loads_or_raises_constitution_error(text: str) -> None:
    error = refusal(text)
    assert error is not None
    assert all(d.line >= 1 and d.column >= 1 for d in error.diagnostics)


@given(st.data())
def test_any_damaged_file_loads_or_raises_constitution_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 20)))
    text = GOOD[:start] + data.draw(_YAML_PIECES) + GOOD[end:]
    if error := refusal(text):
        last = text.count("\n") + 1
        assert all(1 <= d.line <= last for d in error.diagnostics)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(
    st.sampled_from(
        [
            ("name",),
            ("version",),
            ("traits",),
            ("traits", "kind"),
            ("traits", "kind", "weight"),
            ("principles",),
            ("principles", 0),
            ("principles", 0, "id"),
            ("principles", 0, "trait"),
            ("principles", 0, "scope"),
            ("principles", 0, "examples"),
            ("principles", 0, "examples", 0),
            ("principles", 0, "examples", 0, "prompt"),
        ]
    ),
    _JSON,
)
def test_any_value_at_any_path_loads_or_raises_constitution_error(
    path: tuple[Any, ...], value: object
) -> None:
    data = yaml.safe_load(GOOD)
    *steps, last = path
    part = data
    for step in steps:
        part = part[step]
    part[last] = value
    if error := refusal(json.dumps(data)):
        assert str(error)


@given(st.permutations(list(Constitution.model_fields)), st.booleans(), st.integers(40, 120))
def test_the_digest_survives_any_layout(keys: list[str], flow: bool, width: int) -> None:
    original = Constitution.load("harmless")
    data = original.model_dump(mode="json", exclude_none=True)
    ordered = {key: data[key] for key in keys}
    text = yaml.dump(ordered, sort_keys=False, default_flow_style=flow, width=width)
    assert Constitution.from_yaml(text).digest == original.digest


@pytest.mark.parametrize("escape", ["\\ud800", "\\0", "\\x07"])
def test_escapes_of_unusual_characters_load_or_raise_constitution_error(escape: str) -> None:
    text = GOOD.replace("Calm it.", f'"Calm{escape} it."')
    if error := refusal(text):
        assert error.diagnostics[0].line == 10
    else:
        assert Constitution.from_yaml(text).digest


def test_the_size_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(ConstitutionError, match="larger than"):
        Constitution.from_yaml("# " + "é" * (MAX_BYTES // 2))
