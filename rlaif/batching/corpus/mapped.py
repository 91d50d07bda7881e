"""A corpus as a sequence of pairs: a pair is read from disk when it is used.

The columns are mapped into memory, so that the processes of a host share the pages that they read,
and the system may drop them at any time. A process keeps nothing for each pair.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, overload

import numpy

from constitution.schema import Message
from rlaif.batching.corpus.columns import DTYPES, Array, prompt_digest
from rlaif.batching.corpus.manifest import CorpusError, CorpusManifest, read_manifest
from rlaif.batching.rows import Pair, Row
from rlaif.data.cut_off import CutResponses
from rlaif.data.records import RecordError

ROWS_AT_ONCE = 1 << 16
"""Rows of a column that are looked at together."""


class PairLabels(NamedTuple):
    """The labels of a pair, and its name."""

    id: str
    prob_chosen: float  # P(chosen is better)
    traits: dict[str, float | None]  # the same by trait, None where not judged


class PairCorpus:
    """The columns of a corpus. Raises CorpusError for a folder that is damaged, or not a corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: CorpusManifest = read_manifest(folder)
        self.columns = {name: _mapped(folder / f"{name}.npy") for name in DTYPES}
        rows, ids = self.manifest.rows, len(self.columns["ids"])
        if ids != self.manifest.tokens or len(self.columns["offsets"]) != rows + 1:
            raise CorpusError(
                f"{folder}: damaged: it has {ids} tokens, and its manifest names "
                f"{self.manifest.tokens}; delete it and prepare it again"
            )

    def pair(self, row: int) -> Pair:
        """The pair of a row, as `encode_pair` made it."""
        columns = self.columns
        begin, end = columns["offsets"][row : row + 2].tolist()
        prompt, chosen, _ = columns["tokens"][row].tolist()
        ids = columns["ids"][begin:end].tolist()
        name, middle = self.name(row), prompt + chosen
        start = tuple(ids[:prompt])
        return Pair(
            name,
            Row(f"{name} (chosen)", (*start, *ids[prompt:middle]), prompt),
            Row(f"{name} (rejected)", (*start, *ids[middle:]), prompt),
            columns["prob_chosen"][row].item(),
            self.traits(row),
        )

    def traits(self, row: int) -> dict[str, float | None]:
        """The labels by trait of a row's pair."""
        labels = self.columns["traits"][row].tolist()
        names = self.manifest.traits
        return {t: None if p != p else p for t, p in zip(names, labels, strict=True)}  # p != p: NaN

    def name(self, row: int) -> str:
        """The id of a row's pair."""
        begin, end = self.columns["name_offsets"][row : row + 2].tolist()
        return self.columns["names"][begin:end].tobytes().decode()


@dataclass(frozen=True)
class CorpusPairs(Sequence[Pair]):
    """The pairs of a corpus that a training uses.

    rows: their rows, in order; None for all. turn: whether a pair whose rejected response is the
    better one is turned round, as `hard_labels` does.
    """

    corpus: PairCorpus
    rows: Array | None = None
    turn: bool = False

    def __len__(self) -> int:
        return self.corpus.manifest.rows if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> PickedPairs: ...
    def __getitem__(self, place: int | slice) -> Pair | PickedPairs:
        if isinstance(place, slice):
            return PickedPairs(self, range(*place.indices(len(self))))
        if not 0 <= place < len(self):
            raise IndexError(place)
        pair = self.corpus.pair(self.row(place))
        return turned(pair) if self.turn and pair.prob_chosen < 0.5 else pair

    def labels(self, place: int) -> PairLabels:
        """The labels of a place's pair, which is not turned."""
        row = self.row(place)
        prob = self.corpus.columns["prob_chosen"][row].item()
        return PairLabels(self.corpus.name(row), prob, self.corpus.traits(row))

    def row(self, place: int) -> int:
        """The corpus's row of a place."""
        return place if self.rows is None else int(self.rows[place])

    def column(self, name: str) -> Iterator[Array]:
        """A column of the used rows, in pieces of ROWS_AT_ONCE rows; pairs are not turned."""
        for at in range(0, len(self), ROWS_AT_ONCE):
            piece = slice(at, at + ROWS_AT_ONCE)
            yield self.corpus.columns[name][piece if self.rows is None else self.rows[piece]]

    def cut(self) -> CutResponses:
        """How many responses are cut off."""
        counts = [(int(piece.sum()), int((piece > 0).sum())) for piece in self.column("cut")]
        return CutResponses(sum(r for r, _ in counts), sum(p for _, p in counts), len(self))

    def with_rows(self, rows: Array | None, turn: bool = False) -> CorpusPairs:
        """The same corpus, used otherwise."""
        return replace(self, rows=rows, turn=self.turn or turn)


class PickedPairs(Sequence[Pair]):
    """Some pairs of a corpus, each read when it is used: a process reads only its own."""

    def __init__(self, pairs: CorpusPairs, places: Sequence[int]) -> None:
        self._pairs, self._places = pairs, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> PickedPairs: ...
    def __getitem__(self, place: int | slice) -> Pair | PickedPairs:
        if isinstance(place, slice):
            return PickedPairs(self._pairs, self._places[place])
        return self._pairs[self._places[place]]

    def labels(self) -> list[PairLabels]:
        """The labels of all of them, without their tokens."""
        return [self._pairs.labels(place) for place in self._places]


def picked(pairs: Sequence[Pair], places: Sequence[int]) -> Sequence[Pair]:
    """The pairs of a batch: of a corpus each is read when it is used."""
    if isinstance(pairs, CorpusPairs):
        return PickedPairs(pairs, places)
    return [pairs[place] for place in places]


def turned(pair: Pair) -> Pair:
    """The same pair with the other response as chosen."""
    chosen = replace(pair.rejected, id=f"{pair.id} (chosen)")
    rejected = replace(pair.chosen, id=f"{pair.id} (rejected)")
    traits = {trait: None if p is None else 1 - p for trait, p in pair.traits.items()}
    return Pair(pair.id, chosen, rejected, 1 - pair.prob_chosen, traits)


class _Asked(NamedTuple):
    name: str
    prompt: Sequence[Message]


def require_apart_from(
    corpus: PairCorpus, heldout: Sequence[tuple[str, Sequence[Message]]]
) -> None:
    """`require_apart` of a corpus and held-out (id, prompt)s. Raises RecordError."""
    asked = {prompt_digest(prompt): _Asked(name, prompt) for name, prompt in heldout}
    wanted = numpy.fromiter(asked, numpy.uint64, len(asked))
    found: dict[int, int] = {}  # digest → the first row that has it
    for number, piece in enumerate(CorpusPairs(corpus).column("prompts")):
        for place in numpy.flatnonzero(numpy.isin(piece, wanted)).tolist():
            found.setdefault(int(piece[place]), number * ROWS_AT_ONCE + place)
    if found:
        digest, row = next(iter(found.items()))
        raise RecordError(
            f"{len(found)} held-out prompts are also trained on: {asked[digest].name!r} (held out) "
            f"asks the same as {corpus.name(row)!r} of {corpus.folder}, up to case and spacing; "
            "remove such prompts from one of the two, so that what is held out is new to the model"
        )


def _mapped(path: Path) -> Array:
    """A column, mapped into memory without reading ahead: batches are rows from anywhere."""
    try:
        try:
            column = numpy.load(path, mmap_mode="r")
        except ValueError:  # no values: nothing to map
            return numpy.asarray(numpy.load(path))
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(
            f"{path}: cannot be read ({error}); delete the corpus and prepare it again"
        ) from error
    with suppress(AttributeError, OSError):
        column._mmap.madvise(mmap.MADV_RANDOM)
    return numpy.asarray(column)
