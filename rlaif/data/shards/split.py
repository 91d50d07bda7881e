"""A file of any size as a folder of shards, in constant memory.

Two passes: the first checks every row and counts, so that the list of shards can be written before
any of them, and an invalid last row costs no work; the second writes. A killed split goes on with
the shards that are missing.

Rows keep their order. All rows of one prompt stay in one shard, so that each shard can be labeled,
counted and trained on by itself. Of 64-bit digests of the prompts' ids, 8 bytes each are kept.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rlaif.data.datasets import iter_preferences
from rlaif.data.files import RecordError, file_sha256
from rlaif.data.prompt_split import (
    DEFAULT_RULE,
    HELD_OUT,
    TRAIN,
    SplitRule,
    held_out,
    names_split,
    place,
    text_of,
    text_of_messages,
)
from rlaif.data.prompts import stream_prompts
from rlaif.data.records import Preference, Prompt, Sample, preference_schema
from rlaif.data.rows import iter_rows
from rlaif.data.samples import iter_samples
from rlaif.data.shards.digests import repeated
from rlaif.data.shards.folder import Holds, ShardList, claim_list, data_files, place_once
from rlaif.data.shards.parquet import ShardNote, prompt_schema, sample_schema, write_shard
from rlaif.progress import progress

if TYPE_CHECKING:
    import pyarrow

ShardRecord: TypeAlias = Prompt | Sample | Preference

_EXACT = 2000
"""Prompts up to which the split rule's bounds for small files are kept; chance keeps to them in
larger ones."""


@dataclass(frozen=True, slots=True)
class Split:
    """What a split made."""

    holds: Holds
    rows: int
    shards: int


def split(
    sources: Sequence[Path],
    out: Path,
    rows: int,
    holds: Holds | None = None,
    rule: SplitRule = DEFAULT_RULE,
) -> Split:
    """Write the rows of the sources, in their order, as shards of about `rows` rows each.

    holds: the kind of the rows; None: seen by the first one. rule: which prompts are held out where
    no line names a split; every prompt of a shard names its own. Raises RecordError for an invalid
    row, two prompts with one id, and responses to one prompt that do not stand together.
    """
    kind = holds or recognize(sources[0])
    read = partial(_records, kind, sources)
    print("checking every row", file=sys.stderr)
    counted = _Counted.of(_grouped(read()), rows)
    if not counted.rows:
        raise RecordError(f"{sources[0]}: nothing in it to split")
    if kind != "preferences":
        _require_unique(counted.ids, read)
    settle = _settle_splits(read, counted, rule) if kind == "prompts" else None
    settings = {
        "source": [_content(source) for source in sources],
        "rows": rows,
        **({"heldout_share": rule.heldout_share, "split_seed": rule.seed} if settle else {}),
    }
    names = tuple(f"{number:05d}.parquet" for number in range(counted.shards))
    claim_list(out, ShardList(holds=kind, shards=names, made_with=settings))
    schema = _schema(kind, counted.traits)
    with progress("shards", counted.shards, "shards") as report:
        shards = zip(names, _shards(_grouped(read()), rows), strict=True)
        for number, (name, shard) in enumerate(shards, start=1):
            if not (out / name).is_file():
                own = out / f".{name}.{os.getpid()}"
                note = ShardNote(key=_key(shard), rows=len(shard))
                write_shard(own, map(settle, shard) if settle else shard, schema, note)
                place_once(own, out / name)
            report(number)
    return Split(kind, counted.rows, counted.shards)


def _content(source: Path) -> str:
    """Digest of a file, or of all shards of a folder."""
    files = [file_sha256(file) for file in data_files(source)]
    return files[0] if files == files[:1] else blake2b("".join(files).encode()).hexdigest()[:64]


def _schema(kind: Holds, traits: Iterable[str]) -> pyarrow.Schema:
    if kind == "preferences":
        return preference_schema(sorted(traits))
    return prompt_schema() if kind == "prompts" else sample_schema()


def recognize(source: Path) -> Holds:
    """The kind of a file's rows, by the fields of the first. Raises RecordError."""
    _, fields = next(iter_rows(source), ("", {}))
    if "chosen" in fields and "rejected" in fields:
        return "preferences"
    return "samples" if {"response", "responses"} & fields.keys() else "prompts"


def _records(kind: Holds, sources: Sequence[Path]) -> Iterator[ShardRecord]:
    readers: dict[str, Callable[[Path], Iterator[ShardRecord]]] = {
        "prompts": stream_prompts,
        "samples": iter_samples,
        "preferences": iter_preferences,
    }
    return chain.from_iterable(map(readers[kind], sources))


# ── shards of whole prompts ──────────────────────────────────────────────────────────────────


def _prompt_id(record: ShardRecord) -> str:
    if isinstance(record, Preference):
        return text_of_messages(record.prompt)
    return record.prompt.id if isinstance(record, Sample) else record.id


def _grouped(records: Iterable[ShardRecord]) -> Iterator[list[ShardRecord]]:
    return (list(group) for _, group in groupby(records, key=_prompt_id))


def _shards(groups: Iterable[list[ShardRecord]], rows: int) -> Iterator[list[ShardRecord]]:
    """Groups joined until they are `rows` rows or more."""
    shard: list[ShardRecord] = []
    for group in groups:
        shard += group
        if len(shard) >= rows:
            yield shard
            shard = []
    if shard:
        yield shard


@dataclass(slots=True)
class _Counted:
    """What the first pass found."""

    ids: array[int]  # a digest of every group's prompt
    traits: set[str]
    rows: int = 0
    shards: int = 0
    splits: bool = False  # whether a prompt names its split

    @classmethod
    def of(cls, groups: Iterable[list[ShardRecord]], rows: int) -> _Counted:
        found = cls(array("Q"), set())
        for shard in _shards(map(found._note, groups), rows):
            found.rows += len(shard)
            found.shards += 1
        return found

    def _note(self, group: list[ShardRecord]) -> list[ShardRecord]:
        times = len(group) if isinstance(group[0], Prompt) else 1  # prompts in a row with one id
        self.ids.extend([_digest(_prompt_id(group[0]))] * times)
        for record in group:
            if isinstance(record, Preference):
                self.traits |= record.traits.keys()
            elif isinstance(record, Prompt):
                self.splits |= names_split(record)
        return group


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _require_unique(ids: array[int], read: Callable[[], Iterator[ShardRecord]]) -> None:
    """RecordError where two groups are of one prompt: a repeated id, or responses strewn about."""
    twice = repeated(ids)
    if not twice:
        return
    seen: set[str] = set()
    for group in _grouped(read()):
        id = _prompt_id(group[0])
        if id in seen and isinstance(group[0], Sample):
            raise RecordError(
                f"the responses to prompt {id!r} do not stand together; sort the rows by prompt"
            )
        if id in seen or (len(group) > 1 and isinstance(group[0], Prompt)):
            raise RecordError(f"two prompts have the same id: {id!r}; give each its own")
        if _digest(id) in twice:
            seen.add(id)


def _key(shard: Sequence[ShardRecord]) -> str:
    digest = blake2b(digest_size=32)
    for record in shard:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


# ── held-out prompts ─────────────────────────────────────────────────────────────────────────


def _settle_splits(
    read: Callable[[], Iterator[ShardRecord]], counted: _Counted, rule: SplitRule
) -> Callable[[ShardRecord], ShardRecord] | None:
    """What gives a prompt its split by the rule; None where the lines name splits themselves."""
    if counted.splits:
        return None
    few: frozenset[str] | None = None
    if counted.rows <= _EXACT:
        few = held_out([p for p in read() if isinstance(p, Prompt)], rule)

    def settled(record: ShardRecord) -> ShardRecord:
        assert isinstance(record, Prompt)
        text = text_of(record)
        held = text in few if few is not None else place(text, rule.seed) < rule.heldout_share
        return record.model_copy(update={"split": HELD_OUT if held else TRAIN})

    return settled
