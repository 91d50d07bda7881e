"""Samples → lessons: critiques, revisions and the gate; with the pairs as a folder of their own.

OUT has the lessons, which `train sft` imitates; OUT/pairs, a folder of labels, the revisions
preferred to their originals; OUT/unrevised what was refused and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rlaif.data.records import Demonstration, iter_jsonl, write_parquet, write_preferences
from rlaif.data.samples import read_samples
from rlaif.data.shards.folder import Holds, ShardList, claim_list
from rlaif.data.shards.parquet import lesson_schema
from rlaif.feedback.client import FIND_TIMEOUT_S
from rlaif.feedback.labeler import TRANSIENT, LabelingError
from rlaif.feedback.revisions.lessons import (
    LESSONS,
    PAIRS,
    UNREVISED,
    RevisionMethod,
    revise,
)
from rlaif.feedback.revisions.summary import RevisionSummary
from rlaif.sharding.jobs import Counts, Made, journals
from rlaif.sharding.judge import ConnectedJudge, connected


@dataclass(frozen=True, slots=True)
class ReviseShards:
    """Have a judge revise responses: a model to serve, or the address of a running server.

    method: its constitution is a name or a YAML file; its pilot is not used. flags, keep: as of
    LabelShards.
    """

    method: RevisionMethod
    shards: tuple[str, ...]
    judge: str = ""
    server: str = ""
    wait: float = FIND_TIMEOUT_S
    gpus: int = 0  # as of LabelShards
    flags: tuple[str, ...] = ()
    keep: bool = False

    takes: ClassVar[Holds] = "samples"
    gives: ClassVar[Holds] = "lessons"

    @contextmanager
    def opened(self, out: Path) -> Iterator[RevisingWorker]:
        """The worker, connected to its judge. Raises as `connected`."""
        rules = str(self.method.constitution)
        with connected(
            self.judge, self.server, rules, self.wait, out, self.gpus, self.flags
        ) as judge:
            if self.keep:
                judge.keep_server_info(out)
            how = asdict(replace(self.method, constitution=""))
            for name in ("constitution", "concurrency", "pilot"):
                del how[name]
            settings = judge.settings(calibrated=True) | how
            if self.method.gate is not None:
                listed = ShardList(holds="preferences", shards=self.shards, made_with=settings)
                claim_list(out / "pairs", listed)
            yield RevisingWorker(replace(self.method, pilot=None), settings, judge, self.keep)


@dataclass(frozen=True, slots=True)
class RevisingWorker:
    """Revises shard after shard by one judge."""

    method: RevisionMethod
    settings: Mapping[str, Any]
    judge: ConnectedJudge
    keep: bool = False

    def make(self, shard: Path, folder: Path) -> Made:
        """The lessons of a shard's samples. Raises RecordError or RevisionError."""
        samples = read_samples(shard)
        if not samples:
            return self._none(folder)

        def revised() -> RevisionSummary:
            return revise(
                samples, self.judge.client, folder, self.method,
                traits=self.judge.traits, may_be_empty=True,
            )  # fmt: skip

        summary = self.judge.once_more_if_away(revised)
        if _passing(summary):
            summary = revised()
        if passing := _passing(summary):
            reasons = ", ".join(f"{reason} {n}" for reason, n in passing.items())
            raise LabelingError(
                f"{sum(passing.values())} of {summary.samples} responses got no answer "
                f"({reasons}); run the same command again to ask for those"
            )
        beside = {"unrevised": folder / UNREVISED}
        if self.method.gate is not None:
            beside["pairs"] = folder / PAIRS
        if self.keep:
            beside |= journals(folder)
        return Made(_lessons(folder), summary.lessons, _counts(summary), beside)

    def _none(self, folder: Path) -> Made:
        """Of a shard without samples."""
        (folder / LESSONS).touch()
        beside = {}
        if self.method.gate is not None:
            write_preferences(folder / PAIRS, [], self.judge.traits)
            beside["pairs"] = folder / PAIRS
        return Made(_lessons(folder), 0, {"samples": 0.0, "lessons": 0.0}, beside)


def _lessons(folder: Path) -> Path:
    file = folder / "lessons.parquet"
    rows = (lesson.model_dump() for lesson in iter_jsonl(folder / LESSONS, Demonstration))
    write_parquet(file, rows, lesson_schema())
    return file


def _passing(summary: RevisionSummary) -> dict[str, int]:
    """Reason → responses without an answer for a reason that may pass."""
    names = tuple(reason.value for reason in TRANSIENT)
    return {r: n for r, n in summary.refused_by_reason.items() if r.endswith(names)}


def _counts(summary: RevisionSummary) -> Counts:
    counts: Counts = {
        "samples": float(summary.samples),
        "lessons": float(summary.lessons),
        "refused": {reason: float(n) for reason, n in summary.refused_by_reason.items()},
    }
    for kind, of_kind in summary.by_kind.items():
        if kind:
            counts[f"of {kind}"] = {"samples": of_kind.samples, "lessons": of_kind.lessons}
    return counts
