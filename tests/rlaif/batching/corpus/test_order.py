"""The order of a corpus's batches: a bijection, another one in each epoch."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rlaif.batching.corpus.order import ShuffledBatches, permuted


@given(some.integers(1, 3000), some.integers(-5, 2**40), some.integers(0, 1000))
def test_every_place_is_drawn_once(count, seed, epoch):
    assert sorted(permuted(range(count), count, seed, epoch)) == list(range(count))


@given(some.integers(1, 2**40), some.data())
def test_a_place_depends_on_seed_epoch_and_itself_alone(count, data):
    places = data.draw(some.lists(some.integers(0, count - 1), min_size=1, max_size=20))
    together = permuted(places, count, 3, 1)
    assert together == [permuted([place], count, 3, 1)[0] for place in places]
    assert all(0 <= place < count for place in together)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(permuted(range(50), 50, seed, epoch)) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_every_order_of_three_is_about_as_frequent():
    """Chi-squared of 6 000 keys over the 6 orders, 5 degrees of freedom: 20.5 is 1 in 1 000."""
    counts = Counter(tuple(permuted(range(3), 3, seed, 0)) for seed in range(6000))
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_neighbours_go_far_apart():
    """Mean distance of what stands beside each other: a third of all places in a random order."""
    order = permuted(range(10_000), 10_000, 0, 0)
    apart = [abs(one - other) for one, other in pairwise(order)]
    assert sum(apart) / len(apart) == pytest.approx(10_000 / 3, rel=0.05)


def test_batches_are_those_of_passes_with_a_smaller_last_one():
    batches = ShuffledBatches(10, 4, 2, seed=1)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = batches[:3], batches[3:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert batches[-1] == batches[5]
    with pytest.raises(IndexError):
        batches[6]


def test_a_batch_of_ten_billion_pairs_is_found_without_a_list():
    batches = ShuffledBatches(10**10, 8, 3, seed=0)
    assert len(batches) == 3 * 10**10 // 8
    assert len(set(batches[len(batches) // 2])) == 8
    assert sys.getsizeof(batches) < 1000
