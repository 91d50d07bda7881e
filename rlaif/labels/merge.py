"""Labels of several files and folders as one file, each pair once.

    A, B, … ─ one setup? each pair once? ─► rows to keep ─ second pass ─► OUT/preferences.parquet

A pair is a prompt with two responses, in either order. Where it comes twice with the same label,
its first row stays; with another label, or where one id names two pairs, nothing is written. All
labels must be of one constitution, judge, template, calibration and seed: others would be numbers
on another scale. Memory holds one byte a row; keys of 16 bytes lie in a temporary file, about 100
bytes a row while this runs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from constitution.errors import UserError
from judge_service.types import JudgeOptions, Provenance
from rlaif.data.datasets import iter_preferences, labels_at
from rlaif.data.files import RecordError
from rlaif.data.records import Preference, atomic_open, write_preferences
from rlaif.data.shards.folder import is_shard_folder, read_list
from rlaif.feedback.earlier_labels import made_by, recorded_options
from rlaif.feedback.labeler import CONSTITUTION, PREFERENCES, SUMMARY, UNJUDGED
from rlaif.feedback.receipts import parse_receipt

_CACHE_KIB = 4096  # of the temporary file, in memory: the system caches the rest


@dataclass(frozen=True, slots=True)
class MergedLabels:
    """What a merge wrote. repeated: rows that were there already. unjudged: pairs without a label
    in any source."""

    labels: int
    repeated: int
    unjudged: int


def merge(sources: Sequence[Path], out: Path) -> MergedLabels:
    """Write the labels of all sources, in their order, to preferences.parquet in `out`.

    sources: files, folders of `rlaif label`, or folders of shards. Pairs without a label in any of
    them are in unjudged.jsonl, and constitution.yaml is taken along. Raises RecordError, before
    anything is written, for labels made differently (what differs), for a pair with two labels and
    an id of two pairs (both places), and for labels without receipts; UserError for fewer than two
    sources, and where `out` has labels.
    """
    if len(sources) < 2:
        raise UserError(f"expected at least 2 files or folders of labels, found {len(sources)}")
    target = out / PREFERENCES
    if target.exists():
        raise UserError(f"{target}: exists already; choose another folder with --out")
    paths = [labels_at(source) for source in sources]
    _require_same_options(paths)
    with closing(_Pairs()) as pairs:
        kept, traits = bytearray(), set[str]()
        for path, label in _rows(paths):
            kept.append(pairs.is_new(path, label))
            traits |= label.traits.keys()
        if not kept:
            raise RecordError(f"{', '.join(map(str, sources))}: they contain no labels to merge")
        rows = (label for (_, label), keep in zip(_rows(paths), kept, strict=True) if keep)
        write_preferences(target, rows, traits)
        unjudged = _write_unjudged(paths, out / UNJUDGED, pairs)
    _take_constitution(paths, out / CONSTITUTION)
    return MergedLabels(sum(kept), len(kept) - sum(kept), unjudged)


def _rows(paths: Sequence[Path]) -> Iterator[tuple[Path, Preference]]:
    return ((path, label) for path in paths for label in iter_preferences(path))


# ── the same setup ───────────────────────────────────────────────────────────────────────────


def _require_same_options(paths: Sequence[Path]) -> None:
    """RecordError where two sources record different options of the judge, which receipts lack."""
    first: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        for name, value in _options(path).items():
            place, other = first.setdefault(name, (path, value))
            if other != value:
                raise RecordError(
                    f"labels made differently: {name}: {other} in {place}, {value} in {path}; "
                    "label one of them again with the options of the other"
                )


def _options(path: Path) -> Mapping[str, Any]:
    """The judge's options as they were recorded beside labels; none where they were not."""
    if is_shard_folder(path):
        names = recorded_options(JudgeOptions()).keys()
        made_with = read_list(path).made_with
        return {name: made_with[name] for name in names & made_with.keys()}
    made = made_by(path, path.with_name(SUMMARY))
    return made.options if made else {}


def _setup(origin: Provenance) -> dict[str, str]:
    """What all labels of a file must have in common, in words."""
    model = origin.model
    name = f"{origin.constitution_name} {origin.constitution_version}"
    return {
        "constitution": f"{name} (sha256 {origin.constitution_sha256[:12]})",
        "judge": f"{model.name} ({model.dtype}, {model.engine}, weights "
        f"{model.weights_sha256[:12]}, tokenizer {model.tokenizer_sha256[:12]})",
        "template": origin.template_version,
        "protocol": origin.protocol,
        "orders": ", ".join(origin.orders),
        "seed": str(origin.seed),
        "calibration": origin.calibration[:12] or "none",
        "reader": origin.reader[:12] or "none",
    }


# ── each pair once ───────────────────────────────────────────────────────────────────────────


class _Pairs:
    """The pairs so far, in a temporary file that ends with this process, however that ends."""

    def __init__(self) -> None:
        self._first: tuple[Path, Provenance] | None = None
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._file.execute("PRAGMA journal_mode = OFF")
        for table in ("pairs (key BLOB PRIMARY KEY, label BLOB, id TEXT)",
                      "ids (key BLOB PRIMARY KEY, pair BLOB)"):  # fmt: skip
            self._file.execute(f"CREATE TABLE {table} WITHOUT ROWID")

    def close(self) -> None:
        self._file.close()

    def is_new(self, path: Path, label: Preference) -> bool:
        """Whether no row before had this pair. Raises RecordError for a row that does not fit."""
        self._require_same_setup(path, label)
        texts = sorted((label.chosen_text, label.rejected_text))
        pair = _key([[(m.role, m.content) for m in label.prompt], texts])
        content = _key(label.model_dump(mode="json", exclude={"id", "receipt"}))
        before = self._add("ids", "pair", _key(label.id), pair)
        if before not in (None, pair):
            raise RecordError(
                f"{path}: the id {label.id!r} is that of another pair in the labels before it; "
                "give one of the two another id"
            )
        if before is not None or self._known(pair):
            other, id = self._file.execute(
                "SELECT label, id FROM pairs WHERE key = ?", [pair]
            ).fetchone()
            if other == content:
                return False
            also = "" if id == label.id else f", there with the id {id!r},"
            raise RecordError(
                f"{path}: the pair {label.id!r}{also} has another label in the labels before it; "
                "delete one of the two"
            )
        self._file.execute("INSERT INTO pairs VALUES (?, ?, ?)", [pair, content, label.id])
        return True

    def is_without_label(self, id: str) -> bool:
        """Whether a pair of that id has neither a label nor been asked about here before."""
        return self._add("ids", "pair", _key(id), b"") is None

    def _known(self, pair: bytes) -> bool:
        found = self._file.execute("SELECT 1 FROM pairs WHERE key = ?", [pair])
        return found.fetchone() is not None

    def _add(self, table: str, column: str, key: bytes, value: bytes) -> bytes | None:
        """The value that the key had before; None for a new one, which now has this value."""
        found: tuple[bytes] | None = self._file.execute(
            f"SELECT {column} FROM {table} WHERE key = ?", [key]
        ).fetchone()
        if found is None:
            self._file.execute(f"INSERT INTO {table} VALUES (?, ?)", [key, value])
        return found[0] if found else None

    def _require_same_setup(self, path: Path, label: Preference) -> None:
        origin = replace(parse_receipt(label).provenance, principle_ids=())
        place, first = self._first = self._first or (path, origin)
        if astuple(origin) == astuple(first):
            return
        one, other = _setup(first), _setup(origin)
        differing = [f"{name}: {one[name]} in {place}, {other[name]} in {path}"
                     for name in one if one[name] != other[name]]  # fmt: skip
        raise RecordError(
            f"label {label.id!r} was made differently: {'; '.join(differing)}; merge labels of one "
            "constitution, judge and setting"
        )


def _key(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True)
    return blake2b(text.encode(), digest_size=16).digest()


# ── what lies beside labels ──────────────────────────────────────────────────────────────────


def _write_unjudged(paths: Sequence[Path], target: Path, pairs: _Pairs) -> int:
    """Write the lines of pairs that no source has a label for; their number."""
    written = 0
    with atomic_open(target) as out:
        for path in paths:
            beside = path.with_name(UNJUDGED)
            shards = sorted((path / Path(UNJUDGED).stem).glob("*.jsonl"))
            for file in shards if path.is_dir() else filter(Path.is_file, [beside]):
                for line in file.read_text(encoding="utf-8").splitlines():
                    if pairs.is_without_label(str(json.loads(line)["id"])):
                        out.write(line + "\n")
                        written += 1
    return written


def _take_constitution(paths: Sequence[Path], target: Path) -> None:
    """Copy the rules that the first source has beside it, so that training finds their weights."""
    for path in paths:
        file = (path if path.is_dir() else path.parent) / CONSTITUTION
        if file.is_file():
            with atomic_open(target) as out:
                out.write(file.read_text(encoding="utf-8"))
            return
