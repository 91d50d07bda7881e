"""A constitution written as YAML and loaded again is the same, whatever its texts contain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitution.schema import Constitution, Example, Message, Principle, Scope, Trait
from constitution.writer import to_yaml

# Texts that YAML could misread: words of other types, special characters, unusual spaces.
words = [
    "no",
    "1.0",
    "~",
    "-",
    "- x",
    "a:",
    "a: b",
    "#",
    "'",
    '"',
    "|",
    ">",
    "&a",
    "*b",
    "\U0001f600",
]
odd_spaces = ["\n", "\n\n", "  ", "\t", "\r", "\x85", "\u2028", "\ufeff", "\x00", "\x1b"]
tricky = st.sampled_from(words + odd_spaces)
anything = st.text(st.characters(codec="utf-8"), max_size=20)
any_text = st.lists(anything | tricky, max_size=12).map(" ".join) | st.lists(
    tricky, max_size=12
).map("".join)
texts = any_text.filter(lambda text: bool(text.strip()))
messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts)
prompts = texts | st.tuples(messages, st.builds(Message, role=st.just("user"), content=texts))
examples = st.builds(
    Example,
    prompt=prompts,
    response_a=texts,
    response_b=texts,
    preferred=st.sampled_from(["A", "B", "TIE"]),
    note=any_text,
)
scopes = st.builds(Scope, mentions=st.tuples(texts), excludes=st.just(()) | st.tuples(texts))


@st.composite
def constitutions(draw: st.DrawFn) -> Constitution:
    slugs = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
    weights = st.floats(0.001, 1000.0)
    traits = draw(
        st.lists(slugs | st.sampled_from(["no", "y"]), min_size=1, max_size=2, unique=True)
    )
    principles = [
        Principle(
            id=f"p{index}",
            trait=trait,
            weight=draw(weights),
            compare=draw(texts),
            critique=draw(texts),
            revise=draw(texts),
            scope=draw(st.none() | scopes),
            examples=tuple(draw(st.lists(examples, max_size=1))),
        )
        for index, trait in enumerate(traits)
    ]
    return Constitution(
        name=draw(slugs),
        version="1.0.0-rc.1",
        description=draw(any_text),
        traits={t: Trait(weight=draw(weights), description=draw(any_text)) for t in traits},
        principles=tuple(principles),
    )


@given(constitutions())
@settings(deadline=None, max_examples=60)
def test_a_written_constitution_loads_as_the_same_constitution(constitution: Constitution) -> None:
    again = Constitution.from_yaml(to_yaml(constitution))
    assert again == constitution
    assert again.digest == constitution.digest


@pytest.mark.parametrize("name", Constitution.library_names())
def test_shipped_constitutions_are_written_readably(name: str) -> None:
    constitution = Constitution.load(name)
    text = to_yaml(constitution)
    assert Constitution.from_yaml(text).digest == constitution.digest
    assert "\nprinciples:\n  - id: " in text
    assert not any(line.rstrip().endswith(("{}", "[]")) for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 100


def test_a_text_of_several_lines_is_written_as_a_block() -> None:
    constitution = Constitution(
        name="mine",
        version="1.0.0",
        traits={"helpful": Trait()},
        principles=(
            Principle(id="p", trait="helpful", compare="One.\nTwo.", critique="C", revise="R"),
        ),
    )
    assert "compare: |-\n      One.\n      Two.\n" in to_yaml(constitution)
