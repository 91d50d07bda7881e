"""The columns of a corpus, and of the parts that it is put together from.

    [ prompt | chosen ... end | rejected ... end ][ prompt | ...        ids (T,) uint32
      pair 0                                       pair 1
    offsets (N + 1,) int64      where each pair begins in ids, and the last one ends
    tokens (N, 3) int32         of its prompt, chosen and rejected response
    prob_chosen (N,) float64    P(chosen is better)
    traits (N, K) float64       the same by trait; NaN: not judged
    cut (N,) uint8              how many of its responses are cut off: 0, 1 or 2
    prompts (N,) uint64         digest of its prompt's text, up to case and spacing
    names (B,) uint8            ids of the pairs in UTF-8, one after another
    name_offsets (N + 1,) int64

A part is one .npz of the first rows, with lengths in place of offsets and a description as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy

from constitution.schema import Message
from rlaif.batching.rows import Pair
from rlaif.data.cut_off import cut_in_pair
from rlaif.data.prompt_split import text_of_messages
from rlaif.data.records import Preference, RecordError

Array = numpy.ndarray[Any, numpy.dtype[Any]]

DTYPES = {
    "ids": "<u4", "offsets": "<i8", "tokens": "<i4", "prob_chosen": "<f8", "traits": "<f8",
    "cut": "|u1", "prompts": "<u8", "names": "|u1", "name_offsets": "<i8",
}  # fmt: skip

MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class PartAbout:
    """The description of a part."""

    read: int  # labels that it was made of
    last: bool  # whether its file of labels ends with it
    rows: int  # pairs in it
    tokens: int
    name_bytes: int
    traits: tuple[str, ...]
    left_out: int
    reasons: tuple[str, ...]  # why the first of those were
    example: str  # the first label with a receipt as JSON, or ""


class PartBuilder:
    """The columns of some pairs, 4 bytes a token; `add` one, or `leave_out` one, at a time."""

    def __init__(self) -> None:
        self.ids, self.tokens = array("I"), array("i")
        self.prob_chosen, self.cut, self.prompts = array("d"), array("B"), array("Q")
        self.names, self.name_lengths = bytearray(), array("q")
        self.traits: list[dict[str, float | None]] = []
        self.reasons: list[str] = []
        self.left_out, self.example = 0, ""

    def add(self, label: Preference, pair: Pair) -> None:
        """Add a label and its tokens. Raises RecordError for a trait that is not a probability."""
        start = pair.chosen.start
        self.ids.extend(pair.chosen.ids)
        self.ids.extend(pair.rejected.ids[start:])
        lengths = start, pair.chosen.response_length, pair.rejected.response_length
        self.tokens.extend(lengths)
        self.prob_chosen.append(pair.prob_chosen)
        self.traits.append(_probabilities(pair))
        self.cut.append(cut_in_pair(label))
        self.prompts.append(prompt_digest(label.prompt))
        name = pair.id.encode()
        self.names += name
        self.name_lengths.append(len(name))
        if label.receipt and not self.example:
            self.example = label.model_dump_json()

    def leave_out(self, reason: str) -> None:
        """Count a label that cannot be used."""
        self.left_out += 1
        self.reasons += [reason] if len(self.reasons) < MOST_REASONS else []

    def write(self, path: Path, read: int, last: bool) -> None:
        """Write the part whole, and sync it to disk. Raises OSError."""
        names = tuple(sorted({name for row in self.traits for name in row}))
        about = PartAbout(
            read, last, len(self.prob_chosen), len(self.ids), len(self.names), names,
            self.left_out, tuple(self.reasons), self.example,
        )  # fmt: skip
        text = numpy.frombuffer(json.dumps(asdict(about)).encode(), numpy.uint8)
        columns: dict[str, Any] = {
            "ids": self.ids, "prob_chosen": self.prob_chosen, "cut": self.cut,
            "prompts": self.prompts, "names": self.names, "name_lengths": self.name_lengths,
        }  # fmt: skip
        arrays: dict[str, Any] = {
            name: numpy.frombuffer(values, DTYPES.get(name, "<i8")) if len(values) else _none(name)
            for name, values in columns.items()
        }
        tokens = numpy.array(self.tokens, DTYPES["tokens"]).reshape(-1, 3)
        traits = [[_or_nan(row.get(name)) for name in names] for row in self.traits]
        shape = len(self.traits), len(names)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            numpy.savez(
                file, about=text, tokens=tokens, traits=numpy.array(traits).reshape(shape), **arrays
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)  # of two who wrote it, both wrote the same


def prompt_digest(messages: Sequence[Message]) -> int:
    """The first 8 bytes of the sha256 of a prompt's `text_of_messages`."""
    digest = hashlib.sha256(text_of_messages(messages).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def read_about(part: Path) -> PartAbout:
    """The description of a part, without its columns."""
    with numpy.load(part) as columns:
        fields: dict[str, Any] = json.loads(columns["about"].tobytes())
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return PartAbout(**{**fields, **lists})


def write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write what stands before the values of a .npy file."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    numpy.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call]


class ColumnFile:
    """A .npy file of known shape that is written from its beginning to its end, in pieces.

    The file is synced to disk when the block ends. Raises OSError.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...]) -> None:
        self._file = (folder / f"{name}.npy").open("wb")
        self._dtype = numpy.dtype(DTYPES[name])
        write_header(self._file, self._dtype.str, shape)

    def append(self, values: Array) -> None:
        """Write the next values."""
        self._file.write(numpy.ascontiguousarray(values, self._dtype).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _probabilities(pair: Pair) -> dict[str, float | None]:
    for name, p in pair.traits.items():
        if p is not None and not 0 <= p <= 1:  # NaN too
            raise RecordError(
                f"{pair.id}: the label for {name} is not a probability: {p}; fix the record"
            )
    return pair.traits


def _or_nan(p: float | None) -> float:
    return math.nan if p is None else p


def _none(name: str) -> Array:
    return numpy.zeros(0, DTYPES.get(name, "<i8"))
