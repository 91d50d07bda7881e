"""Reference log-probs of a corpus: a file beside it, filled once for all runs on it.

    corpus/reference/<key>.npy      (N, 2) float32 nats: chosen, rejected of each row; NaN: missing
    key = sha256 of the corpus's key, the model's fingerprint, its numerics

The file is mapped into memory as the corpus is, and is in no checkpoint. It is filled in chunks: a
killed run goes on with the pairs that are NaN. The first process of each host writes what all have
computed, so that it may lie on a disk that the hosts share, or on one of each.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy
import torch
from torch import Tensor

from rlaif.batching.corpus.columns import Array, write_header
from rlaif.batching.corpus.mapped import CorpusPairs
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.progress import progress
from rlaif.training.config import TrainingError

CHUNK = 1024
"""Pairs that are computed, by all processes, before they are written."""

PIECE = 1 << 16  # rows looked at together


@dataclass(frozen=True)
class ReferenceFile:
    """The reference log-probs of a corpus's pairs, by the places of the pairs that are used."""

    path: Path
    pairs: CorpusPairs
    values: Array  # (N, 2) of all rows of the corpus, mapped

    @classmethod
    def open(
        cls, pairs: CorpusPairs, folder: Path, model: tuple[str, str], workers: ProcessGroup
    ) -> ReferenceFile:
        """Open the file in `folder`/reference, or make an empty one.

        model: the reference's fingerprint, and the names of its dtypes (`numerics` of train.py).
        Collective. Raises TrainingError where the file cannot be made.
        """
        text = "\n".join((pairs.corpus.manifest.key, *model))
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = folder / "reference" / f"{key}.npy"
        with workers.raise_together():
            try:
                if not path.exists():
                    _make_empty(path, pairs.corpus.manifest.rows)
                values = numpy.asarray(numpy.load(path, mmap_mode="r"))
            except (OSError, ValueError) as error:
                raise TrainingError(
                    f"{path}: the reference log-probs cannot be kept ({error}); give a folder for "
                    "them with --reference-cache"
                ) from error
        return cls(path, pairs, values)

    def __getitem__(self, places: Sequence[int]) -> Tensor:
        """The log-probs of a batch: (B,) places → (B, 2), chosen first."""
        rows = [self.pairs.row(place) for place in places]
        found = torch.from_numpy(self.values[rows])  # (B, 2), a copy
        if self.pairs.turn:
            turned = torch.from_numpy(self.pairs.corpus.columns["prob_chosen"][rows] < 0.5)
            found[turned] = found[turned].flip(1)
        return found

    def missing(self, first: int, end: int) -> list[int]:
        """Rows of the used pairs of these places that have no log-probs."""
        rows = self.pairs.rows
        own = numpy.arange(first, end) if rows is None else rows[first:end]
        values = self.values[first:end] if rows is None else self.values[own]
        found: list[int] = own[numpy.isnan(values).any(1)].tolist()
        return found

    def is_whole(self) -> bool:
        """Whether every used pair has its log-probs."""
        count = len(self.pairs)
        return not any(self.missing(at, min(at + PIECE, count)) for at in range(0, count, PIECE))

    def write(self, rows: Sequence[int], values: Sequence[tuple[float, float]]) -> None:
        """Write rows' log-probs, and sync them to disk. Raises TrainingError."""
        try:
            writable = numpy.load(self.path, mmap_mode="r+")
            writable[list(rows)] = numpy.array(values, numpy.float32)
            writable.flush()
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error}); earlier values are kept: free some "
                "space, or give a folder that can be written with --reference-cache"
            ) from error


def _make_empty(path: Path, rows: int) -> None:
    """Make a file of NaN; of several processes that do, the first one's stands. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    with partial.open("wb") as file:
        write_header(file, "<f4", (rows, 2))
        for at in range(0, rows, PIECE):
            file.write(numpy.full((min(PIECE, rows - at), 2), numpy.nan, "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


@torch.no_grad()
def fill_reference(
    backbone: Backbone, reference: ReferenceFile, micro_batch_tokens: int, workers: ProcessGroup
) -> None:
    """Compute what is missing, a chunk at a time. Before the first optimizer step; collective.

    Raises TrainingError for a log-prob that is not finite.
    """
    if not workers.all_reduce({"missing": float(not reference.is_whole())})["missing"]:
        return
    count = len(reference.pairs)
    with progress("DPO, reference log-probs", count, "pairs") as report:
        for at in range(0, count, CHUNK):
            report(at)
            seen = workers.gather([reference.missing(at, min(at + CHUNK, count))])
            rows = sorted({row for of_process in seen for row in of_process})
            if not rows:
                continue  # in every process
            values = _computed(
                backbone, reference, workers.shard(rows), micro_batch_tokens, workers
            )
            every = workers.gather(values)
            with workers.raise_together():
                _require_finite(reference, rows, every)
                if int(os.environ.get("LOCAL_RANK", "0")) == 0:
                    reference.write(rows, every)
        report(count)


def _computed(
    backbone: Backbone, reference: ReferenceFile, rows: Sequence[int], budget: int,
    workers: ProcessGroup,
) -> list[tuple[float, float]]:  # fmt: skip
    """This process's share of a chunk: (chosen, rejected) of each row, in nats."""
    pairs = [reference.pairs.corpus.pair(row) for row in rows]
    found: dict[int, tuple[float, float]] = {}
    for group in workers.pad_batches(backbone.pair_batches(pairs, budget)):
        batch = backbone.batch_pairs([pairs[i] for i in group])
        values = backbone.response_sums(None, batch).logprobs.view(-1, 2)  # (B, 2)
        found |= {i: (c, r) for i, (c, r) in zip(group, values.tolist(), strict=True)}
    return [found[i] for i in range(len(rows))]


def _require_finite(
    reference: ReferenceFile, rows: Sequence[int], values: Sequence[tuple[float, float]]
) -> None:
    if not numpy.isfinite(numpy.array(values)).all():
        names = (
            reference.pairs.corpus.name(row)
            for row, value in zip(rows, values, strict=True)
            if not numpy.isfinite(value).all()
        )
        raise TrainingError(
            f"the reference log-probs of pairs {', '.join(list(names)[:3])} are not all finite: "
            "the model overflows or is damaged; set dtype=float32"
        )
