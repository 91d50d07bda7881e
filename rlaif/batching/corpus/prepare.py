"""Labels → a corpus, with memory that does not grow with their number.

    corpus.parts/<key>/00002-000017.npz     labels 17 · 4096 … of the third file, whole or absent
    corpus/                                 all parts in a row, renamed to this name when complete

A killed preparation goes on after its last part. Several may run at once, on one host or (where the
file system carries flock between them) on several: each takes parts that no other has, and all end
with the one corpus that was first complete. Without flock they do the same work twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy

from rlaif.batching.corpus.columns import ColumnFile, PartAbout, PartBuilder, read_about
from rlaif.batching.corpus.manifest import (
    MANIFEST,
    CorpusError,
    CorpusManifest,
    MadeOf,
    differing,
    is_corpus,
    read_manifest,
)
from rlaif.batching.encode import encode_pair
from rlaif.batching.unusable import BatchError, NoneUsableError, Unusable
from rlaif.data.datasets import iter_preferences
from rlaif.data.records import Preference

LABELS_IN_PART = 4096


def _unreported(done: int) -> None:
    """A `report` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """A corpus to be made of files of labels.

    tokenizer: as the training has it, with the template's variables and the model's end tokens.
    made_of: of the files, with this tokenizer. report: called with the number of labels passed.
    beside: files that are copied into the corpus.
    """

    files: Sequence[Path]
    tokenizer: Any
    made_of: MadeOf
    model: str
    unusable: Unusable
    out: Path
    report: Callable[[int], None] = _unreported
    beside: Sequence[Path] = ()

    @property
    def parts(self) -> Path:
        """The folder of the parts made so far."""
        return self.out.with_name(self.out.name + ".parts") / self.made_of.key[:16]

    def run(self) -> CorpusManifest:
        """Make the corpus, or what is missing of it; returns its manifest.

        Raises CorpusError where `out` is something else, or cannot be written; RecordError for a
        file that cannot be read; BatchError for a label that cannot be used, unless unusable is
        "skip".
        """
        self.require_free()
        try:
            for wait in (False, True):  # first what nobody makes, then what others did not finish
                done = 0
                for place, _ in enumerate(self.files):
                    if self._finished():
                        break
                    done = self._prepare_file(place, wait, done)
            if not self._finished():
                self._put_together()
            shutil.rmtree(self.parts.parent, ignore_errors=True)
        except OSError as error:
            if self._finished():  # by another, who took the parts away
                return read_manifest(self.out)
            raise CorpusError(
                f"{self.out}: cannot be written ({error.strerror or error}); finished parts stay: "
                "free some space, or give another --out, and run again"
            ) from error
        return read_manifest(self.out)

    def require_free(self) -> None:
        """Raises CorpusError where `out` is anything but this corpus, or nothing yet."""
        if self._finished():
            if differ := differing(read_manifest(self.out).made_of, self.made_of):
                raise CorpusError(
                    f"{self.out}: a corpus with another {', '.join(differ)} is there; give another "
                    "--out, or delete it"
                )
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise CorpusError(
                f"{self.out}: is there, and not a corpus; give --out a folder that is not there yet"
            )

    def _finished(self) -> bool:
        return is_corpus(self.out)

    def _part(self, file: int, number: int) -> Path:
        return self.parts / f"{file:05d}-{number:06d}.npz"

    def _prepare_file(self, file: int, wait: bool, done: int) -> int:
        """Make the parts of a file that are missing, and that no other process is making.

        wait: for the others. done: labels of earlier files. Returns it with those of this one.
        """
        if (about := self._whole_file(file)) is not None:
            return done + sum(part.read for part in about)
        labels = iter_preferences(self.files[file])
        for number in count():
            part = self._part(file, number)
            with _claimed(part, wait) as ours:
                if ours and not part.exists() and not self._finished():
                    read = self._write_part(part, labels, done)
                else:
                    read = sum(1 for _ in islice(labels, LABELS_IN_PART))
            done += read
            self.report(done)
            if read < LABELS_IN_PART:
                return done
        raise AssertionError("a file of labels ends")

    def _whole_file(self, file: int) -> list[PartAbout] | None:
        """What the parts of a file say, in order; None while some are missing."""
        about: list[PartAbout] = []
        for number in count():
            part = self._part(file, number)
            if not part.exists():
                return None
            about.append(read_about(part))
            if about[-1].last:
                return about
        return None

    def _write_part(self, part: Path, labels: Iterator[Preference], done: int) -> int:
        """Encode the next labels into a part; returns how many were read."""
        built, read = PartBuilder(), 0
        for read, label in enumerate(islice(labels, LABELS_IN_PART), start=1):
            try:
                built.add(label, encode_pair(self.tokenizer, label, self.made_of.max_tokens))
            except BatchError as error:
                if self.unusable == "error":
                    raise
                built.leave_out(str(error))
            self.report(done + read)
        built.write(part, read, last=read < LABELS_IN_PART)
        return read

    def _put_together(self) -> None:
        """Write all parts in a row, and give the folder its name; the first one stands."""
        with _claimed(self.parts / "whole", wait=True):
            if self._finished():
                return
            whole = self.parts / f"whole.{uuid4().hex[:8]}"
            whole.mkdir()
            about = [each for file, _ in enumerate(self.files) for each in self._of_file(file)]
            manifest = self._manifest(about)
            write_columns(self._paths(), about, manifest, whole)
            for extra in self.beside:
                shutil.copyfile(extra, whole / extra.name)
            with (whole / MANIFEST).open("w", encoding="utf-8") as file:
                file.write(manifest.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(whole)
            try:
                whole.rename(self.out)
            except OSError:
                if not self._finished():
                    raise
            _sync_folder(self.out.parent)

    def _of_file(self, file: int) -> list[PartAbout]:
        found = self._whole_file(file)
        if found is None:
            raise CorpusError(f"{self.parts}: parts are missing; run this command again")
        return found

    def _paths(self) -> Iterator[Path]:
        for file, _ in enumerate(self.files):
            for number, _ in enumerate(self._of_file(file)):
                yield self._part(file, number)

    def _manifest(self, about: Sequence[PartAbout]) -> CorpusManifest:
        reasons = [reason for part in about for reason in part.reasons]
        left_out, rows = sum(part.left_out for part in about), sum(part.rows for part in about)
        if not rows:
            first = f"; the first error: {reasons[0]}" if reasons else ""
            raise NoneUsableError(f"no usable pair among {left_out} preferences{first}", ())
        example = next((part.example for part in about if part.example), "")
        return CorpusManifest(
            made_of=self.made_of,
            key=self.made_of.key,
            model=self.model,
            rows=rows,
            tokens=sum(part.tokens for part in about),
            traits=tuple(sorted({name for part in about for name in part.traits})),
            left_out=left_out,
            reasons=tuple(reasons[:3]),
            example=Preference.model_validate_json(example) if example else None,
        )


def write_columns(
    parts: Iterable[Path], about: Sequence[PartAbout], manifest: CorpusManifest, folder: Path
) -> None:
    """Write the columns of all parts in a row, holding one part at a time. Raises OSError."""
    rows, width = manifest.rows, len(manifest.traits)
    shapes: dict[str, tuple[int, ...]] = {
        "ids": (manifest.tokens,), "offsets": (rows + 1,), "tokens": (rows, 3),
        "prob_chosen": (rows,), "traits": (rows, width), "cut": (rows,), "prompts": (rows,),
        "names": (sum(part.name_bytes for part in about),), "name_offsets": (rows + 1,),
    }  # fmt: skip
    with ExitStack() as stack:
        files = {n: stack.enter_context(ColumnFile(folder, n, s)) for n, s in shapes.items()}
        begins = {"offsets": 0, "name_offsets": 0}
        for name in begins:
            files[name].append(numpy.zeros(1))
        for path, part in zip(parts, about, strict=True):
            with numpy.load(path) as columns:
                for name in ("ids", "tokens", "prob_chosen", "cut", "prompts", "names"):
                    files[name].append(columns[name])
                traits = numpy.full((part.rows, width), numpy.nan)
                places = [manifest.traits.index(name) for name in part.traits]
                traits[:, places] = columns["traits"]
                files["traits"].append(traits)
                lengths = {
                    "offsets": columns["tokens"].sum(1, dtype=numpy.int64),
                    "name_offsets": columns["name_lengths"],
                }
            for name, of_rows in lengths.items():
                ends = begins[name] + numpy.cumsum(of_rows, dtype=numpy.int64)
                files[name].append(ends)
                begins[name] = int(ends[-1]) if len(ends) else begins[name]


@contextmanager
def _claimed(part: Path, wait: bool) -> Iterator[bool]:
    """Whether this process alone makes a part during the block; wait: until no other does.

    The lock ends with the process, even by a kill. On a file system without locks everybody may.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(part.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours = True
        except BlockingIOError:
            ours = False
        except OSError:
            ours = True
        yield ours
    finally:
        os.close(lock)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
