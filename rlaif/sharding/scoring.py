"""Samples → scored samples: the responses of a shard, each with what a reward says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rlaif.data.samples import iter_samples
from rlaif.data.shards.folder import Holds
from rlaif.feedback.client import judge_reward
from rlaif.feedback.pairs import digest
from rlaif.rewards.mix import Reward
from rlaif.rewards.scoring import SCORES, scorer, write_scores
from rlaif.sharding.jobs import Made


@dataclass(frozen=True, slots=True)
class ScoreShards:
    """Score responses by the sum of sources (rewards/sources.py)."""

    sources: tuple[str, ...]

    takes: ClassVar[Holds] = "samples"
    gives: ClassVar[Holds] = "samples"

    @contextmanager
    def opened(self, out: Path) -> Iterator[ScoringWorker]:
        """The worker, with its reward models loaded. Raises as `scorer`."""
        with scorer(self.sources, judge_reward) as reward:
            yield ScoringWorker({"reward": digest(reward.identity)}, reward)


@dataclass(frozen=True, slots=True)
class ScoringWorker:
    """Scores shard after shard."""

    settings: Mapping[str, Any]
    reward: Reward

    def make(self, shard: Path, folder: Path) -> Made:
        """A shard's samples with their scores. Raises RewardError or RecordError."""
        done = write_scores(iter_samples(shard), self.reward, folder)
        counts = {"responses": done.responses, "scored": done.scored, "sum_score": done.total}
        return Made(folder / SCORES, done.responses, {k: float(n) for k, n in counts.items()})
