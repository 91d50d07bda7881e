"""The parts of a folder: disjoint, and together all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constitution.errors import UserError
from rlaif.sharding.part import WHOLE, Part


@given(st.integers(0, 40), st.integers(1, 12))
def test_parts_share_no_shard_and_leave_none(shards: int, parts: int) -> None:
    names = [f"{number:05d}" for number in range(shards)]
    shares = [Part.parse(f"{index}/{parts}").of(names) for index in range(parts)]

    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert WHOLE.of(names) == names


@pytest.mark.parametrize("text", ["3/3", "1", "-1/3", "1/0", "a/b", ""])
def test_an_invalid_part_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="give I/N with I from 0 to N-1"):
        Part.parse(text)
