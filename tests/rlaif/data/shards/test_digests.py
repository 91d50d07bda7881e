"""Digests that occur more than once."""

from __future__ import annotations

import random
import tracemalloc
from array import array

from rlaif.data.shards.digests import repeated


def test_repeated_finds_what_occurs_twice_or_more_wherever_it_stands() -> None:
    draw = random.Random(0)
    once = [draw.getrandbits(64) for _ in range(5000)]
    digests = array("Q", [*once, 2**64 - 1, 0, 256, once[0], 0, 0, once[4999]])
    assert repeated(digests) == {0, once[0], once[4999]}
    assert repeated(array("Q")) == set()


def test_repeated_takes_less_memory_than_a_list() -> None:
    draw = random.Random(0)
    digests = array("Q", (draw.getrandbits(64) for _ in range(100_000)))
    tracemalloc.start()
    try:
        repeated(digests)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        sorted(digests)
        _, of_list = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(digests)
    assert of_list > 2 * peak
