"""The order of batches as a function of (seed, epoch, place): nothing is kept for each pair.

    epoch e, place p  ─►  π_e(p)      a bijection of 0 … N - 1

π_e is a Feistel network over 2h bits, the fewest with N <= 4^h, applied again while its result is
N or more (cycle walking: fewer than 4 times on average, since N > 4^(h-1)):

    (L, R) ← (R, L xor F_r(R))        r = 1 … ROUNDS;  F_r(R) = mix(R + key_r) mod 2^h

It is a bijection whatever F is, so that walking is one, too. The keys come from a digest of seed
and epoch. A table of the order (torch.randperm, as for pairs in memory) would be 8 bytes a pair in
every process, or a file that each epoch writes anew; this takes microseconds a batch. Black and
Rogaway 2002, "Ciphers with Arbitrary Finite Domains"; F mixes as splitmix64 does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy

Places = numpy.ndarray[Any, numpy.dtype[numpy.uint64]]

ROUNDS = 8


def permuted(places: Iterable[int], count: int, seed: int, epoch: int) -> list[int]:
    """Where the shuffle of an epoch puts the places 0 … count - 1.

    >>> sorted(permuted(range(5), 5, seed=0, epoch=0))
    [0, 1, 2, 3, 4]
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
    keys = numpy.frombuffer(digest, "<u8")
    values = _network(numpy.fromiter(places, numpy.uint64), half, keys)
    while (outside := values >= count).any():
        values[outside] = _network(values[outside], half, keys)
    return [int(value) for value in values]


def _network(values: Places, half: int, keys: Places) -> Places:
    """A bijection of the numbers below 2^(2 half), for half <= 32."""
    bits, mask = numpy.uint64(half), numpy.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << bits) | right


def _mixed(x: Places) -> Places:
    """splitmix64's finalizer: every bit depends on all bits; arithmetic is modulo 2^64."""
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


class ShuffledBatches(Sequence[list[int]]):
    """The batch of every optimizer step, for `epochs` passes over `count` shuffled items.

    As `epoch_batches` the last batch of an epoch may be smaller, and a step's number is all that a
    checkpoint needs; the order is another.
    """

    def __init__(self, count: int, batch_size: int, epochs: int, seed: int) -> None:
        self.items, self.batch_size, self.epochs, self.seed = count, batch_size, epochs, seed
        self._steps = -(-count // batch_size)  # of an epoch

    def __len__(self) -> int:
        return self.epochs * self._steps

    @overload
    def __getitem__(self, step: int) -> list[int]: ...
    @overload
    def __getitem__(self, step: slice) -> list[list[int]]: ...
    def __getitem__(self, step: int | slice) -> list[int] | list[list[int]]:
        if isinstance(step, slice):
            return [self[each] for each in range(*step.indices(len(self)))]
        if not -len(self) <= step < len(self):
            raise IndexError(step)
        epoch, place = divmod(step % len(self), self._steps)
        first = place * self.batch_size
        places = range(first, min(first + self.batch_size, self.items))
        return permuted(places, self.items, self.seed, epoch)
