"""The pairs of a corpus that some settings leave, as a file of row numbers that processes share.

    corpus/rows/<name>-<digest>.npy     int64, in order; made by the first process that needs it

No file where every row is used. Where the corpus cannot be written, each process holds the numbers,
8 bytes a pair.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy

from rlaif.batching.corpus.columns import Array, write_header
from rlaif.batching.corpus.mapped import CorpusPairs
from rlaif.data.cut_off import CutOff


def without_cut(pairs: CorpusPairs, cut_off: CutOff) -> CorpusPairs:
    """`pairs_for` of a corpus."""
    if cut_off == "keep":
        return pairs
    return _kept(pairs, "without-cut", lambda: (piece == 0 for piece in pairs.column("cut")))


def with_side(pairs: CorpusPairs, traits: Sequence[str] | None = None) -> CorpusPairs:
    """The pairs whose label is not ½ or, with traits, one of whose labels is not."""
    name = "with-side" if traits is None else f"with-any-side:{','.join(traits)}"

    def clear() -> Iterator[Array]:
        places = [pairs.corpus.manifest.traits.index(trait) for trait in traits or ()]
        for label, by_trait in zip(
            pairs.column("prob_chosen"), pairs.column("traits"), strict=True
        ):
            yield (label != 0.5) | _sided(by_trait[:, places]).any(1)

    return _kept(pairs, name, clear)


def _sided(labels: Array) -> Array:
    """Where a label by trait is known and not ½."""
    known: Array = ~numpy.isnan(labels) & (labels != 0.5)
    return known


def seen_traits(pairs: CorpusPairs) -> tuple[set[str], set[str]]:
    """(the traits that some pair is labeled by, those that one is with a label other than ½)."""
    seen = numpy.zeros(len(pairs.corpus.manifest.traits), bool)
    sided = numpy.zeros_like(seen)
    for piece in pairs.column("traits"):
        seen |= (~numpy.isnan(piece)).any(0)
        sided |= _sided(piece).any(0)
    names = numpy.array(pairs.corpus.manifest.traits, object)
    return set(names[seen].tolist()), set(names[sided].tolist())


def _kept(pairs: CorpusPairs, name: str, masks: Callable[[], Iterator[Array]]) -> CorpusPairs:
    """The pairs where the masks, one of each piece of a column, are True.

    name: says what `masks` depends on, besides the pairs.
    """
    count = sum(int(mask.sum()) for mask in masks())
    if count == len(pairs):
        return pairs
    of = "all" if pairs.rows is None else hashlib.sha256(pairs.rows.data).hexdigest()
    folder = pairs.corpus.folder / "rows"
    digest = hashlib.sha256(f"{name}\n{of}\n{pairs.corpus.manifest.key}".encode()).hexdigest()[:16]
    path = folder / f"{name.partition(':')[0]}-{digest}.npy"
    if not path.exists():
        try:
            _write(path, count, _numbers(pairs, masks()))
        except OSError:
            pieces = list(_numbers(pairs, masks()))
            return pairs.with_rows(numpy.concatenate([numpy.zeros(0, numpy.int64), *pieces]))
    rows = numpy.load(path, mmap_mode="r" if count else None)
    return pairs.with_rows(numpy.asarray(rows))


def _numbers(pairs: CorpusPairs, masks: Iterator[Array]) -> Iterator[Array]:
    """The kept rows' numbers, in pieces."""
    at = 0
    for mask in masks:
        places = at + numpy.flatnonzero(mask)
        yield places if pairs.rows is None else pairs.rows[places]
        at += len(mask)


def _write(path: Path, count: int, pieces: Iterator[Array]) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        write_header(file, "<i8", (count,))
        for piece in pieces:
            file.write(piece.astype("<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)  # of two who wrote it, both wrote the same
