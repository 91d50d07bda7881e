"""Samples → labels: the pairs of a shard are judged, and its journal kept until it is whole.

A shard gets its name once every pair has an answer that stands. Pairs that failed for a reason that
may pass, such as an engine that died, are asked once more, and a judge that is out of reach is
waited for as at the start; if that fails too, so does the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from judge_service.types import JudgeOptions
from rlaif.data.samples import read_samples
from rlaif.data.shards.folder import Holds
from rlaif.feedback.client import FIND_TIMEOUT_S
from rlaif.feedback.counts import LabelingSummary, NotAsked
from rlaif.feedback.earlier_labels import recorded_options
from rlaif.feedback.filter import FILTERED, RatingClient, filter_samples
from rlaif.feedback.labeler import PREFERENCES, TRANSIENT, UNJUDGED, LabelingError, label
from rlaif.feedback.pairs import pairs_from_samples
from rlaif.sharding.jobs import Counts, Made, journals
from rlaif.sharding.judge import ConnectedJudge, connected

_COUNTED = (
    "pairs", "judged", "unjudged", "unjudged_by_reason", "identical", "unequal", "filtered",
    "unrated", "cut_off", "undecided", "void_reads", "reads", "stored_reads", "prompt_tokens",
    "cached_tokens",
)  # fmt: skip
"""Fields of a LabelingSummary that add up over shards."""


@dataclass(frozen=True, slots=True)
class LabelShards:
    """Label pairs of responses by a judge: a model to serve, or the address of a running server.

    flags: of `rlaif serve` for that model. pair_seed: of drawing pairs; None: that of the options.
    keep: leave the journals beside the shards, and what the judge says of itself in their folder.
    The other fields: as of `rlaif.label`.
    """

    judge: str = ""
    server: str = ""
    constitution: str = ""  # a name, or a YAML file
    wait: float = FIND_TIMEOUT_S
    pairs_per_prompt: int | None = 1
    max_length_ratio: float | None = None
    filter_margin: float | None = None
    options: JudgeOptions = field(default_factory=JudgeOptions)
    gpus: int = 0  # over which a judge that is served here is split; 0: as it finds them
    flags: tuple[str, ...] = ()
    pair_seed: int | None = None
    keep: bool = False

    takes: ClassVar[Holds] = "samples"
    gives: ClassVar[Holds] = "preferences"

    @contextmanager
    def opened(self, out: Path) -> Iterator[LabelingWorker]:
        """The worker, connected to its judge. Raises as `connected`."""
        with connected(
            self.judge, self.server, self.constitution, self.wait, out, self.gpus, self.flags
        ) as judge:
            if self.keep:
                judge.keep_server_info(out)
            drawing = {
                "pairs_per_prompt": self.pairs_per_prompt,
                "max_length_ratio": self.max_length_ratio,
                "filter": self.filter_margin,
            }
            if self.pair_seed is not None:
                drawing["pair_seed"] = self.pair_seed
            by = judge.settings(self.options.calibrated)
            yield LabelingWorker(self, by | recorded_options(self.options) | drawing, judge)


@dataclass(frozen=True, slots=True)
class LabelingWorker:
    """Labels shard after shard by one judge."""

    job: LabelShards
    settings: Mapping[str, Any]
    judge: ConnectedJudge

    def make(self, shard: Path, folder: Path) -> Made:
        """The labels of a shard's samples. Raises RecordError or LabelingError."""
        summary = self.judge.once_more_if_away(lambda: self._label(shard, folder))
        if _passing(summary):
            summary = self._label(shard, folder)
        if passing := _passing(summary):
            reasons = ", ".join(f"{reason} {n}" for reason, n in passing.items())
            raise LabelingError(
                f"{sum(passing.values())} of {summary.pairs} pairs got no answer ({reasons}); run "
                "the same command again to ask for those"
            )
        beside = {"unjudged": folder / UNJUDGED} if summary.unjudged else {}
        if summary.filtered:
            beside["filtered"] = folder / FILTERED
        if self.job.keep:
            beside |= journals(folder)
        return Made(folder / PREFERENCES, summary.judged, _counts(summary), beside)

    def _label(self, shard: Path, folder: Path) -> LabelingSummary:
        job, samples = self.job, read_samples(shard)
        left_out = NotAsked()
        if job.filter_margin is not None and samples:
            left = filter_samples(
                samples, cast("RatingClient", self.judge.client), folder,
                margin=job.filter_margin, constitution=job.constitution, options=job.options,
            )  # fmt: skip
            samples, left_out = left.kept, NotAsked(filtered=left.broken, unrated=left.unrated)
        pairs = pairs_from_samples(
            samples,
            pairs_per_prompt=job.pairs_per_prompt,
            seed=job.options.seed if job.pair_seed is None else job.pair_seed,
            max_length_ratio=job.max_length_ratio,
        )
        return label(
            pairs.comparisons,
            self.judge.client,
            folder,
            constitution=job.constitution,
            options=job.options,
            not_asked=replace(left_out, identical=pairs.identical, unequal=pairs.unequal),
            traits=self.judge.traits,
            may_be_empty=True,
        )


def _passing(summary: LabelingSummary) -> dict[str, int]:
    """Reason → pairs without an answer for a reason that may pass."""
    return {r: n for r, n in summary.unjudged_by_reason.items() if r in TRANSIENT}


def _counts(summary: LabelingSummary) -> Counts:
    """What adds up; means as sums over labels."""
    counts: Counts = {name: getattr(summary, name) for name in _COUNTED}
    for name in ("prob_chosen", "entropy"):
        mean = getattr(summary, f"mean_{name}")
        counts[f"sum_{name}"] = 0.0 if mean is None else mean * summary.judged
    return counts
