"""Samples → scored samples: what a reward says of every response of a file.

    samples ─ 64 at a time ─► reward ─► journal (key → score) ─► rows with a column `score`

A score that the journal has is not computed again: its key is a digest of the reward's identity,
the conversation and the response. A response without a score has none, never a number; the next run
asks for it again, since a judge that was away may be why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from rlaif.data.cut_off import ResponseText
from rlaif.data.journal import Journal
from rlaif.data.records import Sample, replacing, write_parquet
from rlaif.data.shards.parquet import sample_schema
from rlaif.rewards.base import RewardError
from rlaif.rewards.mix import Reward
from rlaif.rewards.sources import open_rewards

if TYPE_CHECKING:
    import pyarrow

    from rlaif.models.reward_model import RewardFunction
    from rlaif.rewards.base import OpenJudge

SCORES, JOURNAL = "scores.parquet", "scores.journal.jsonl"
AT_ONCE = 64
"""Responses that the reward is given at once."""


class ScoredSample(Sample):
    """A sample with its score; None where the reward gave none."""

    score: float | None


class ScoreLine(BaseModel):
    """A line of the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    score: float


def scored_schema() -> pyarrow.Schema:
    """The columns of a Parquet file of scored samples."""
    import pyarrow

    return sample_schema().append(pyarrow.field("score", pyarrow.float64()))


@contextmanager
def scorer(sources: Sequence[str] | RewardFunction, judge: OpenJudge) -> Iterator[Reward]:
    """Yield the reward that sources name, each of its reward models over a base of its own, or that
    a function is.

    judge: opens the scores of a judge service. Raises as `open_rewards`.
    """
    if callable(sources):
        name = [getattr(sources, each, "") for each in ("__module__", "__qualname__")]
        yield Reward([("function", 1.0, sources)], name)
        return
    with open_rewards(sources, judge) as reward:
        yield reward.by_itself()


def score_samples(
    samples: Iterable[Sample], reward: Reward, journal: Path
) -> Iterator[ScoredSample]:
    """Yield each sample with its score, in order. In memory are 64, and the digests of all
    that have a score.

    Raises RewardError for a source that gives no numbers, and RecordError for the journal.
    """
    with Journal(journal, ScoreLine) as lines:
        known = {line.key: line.score for _, line in lines.scan()}
        left = iter(samples)
        while some := list(islice(left, AT_ONCE)):
            keys = [_key(sample, reward.identity) for sample in some]
            new = {k: s for k, s in zip(keys, some, strict=True) if k not in known}
            scores = reward(
                [sample.prompt.messages for sample in new.values()],
                [ResponseText(s.response, s.complete, s.end_token) for s in new.values()],
            )
            for key, score in zip(new, scores, strict=True):
                if score is not None:
                    lines.append(ScoreLine(key=key, score=score))
                    known[key] = score
            for key, sample in zip(keys, some, strict=True):
                yield ScoredSample(**dict(sample), score=known.get(key))


@dataclass
class ScoringSummary:
    """What was scored. total: sum of the scores that there are."""

    responses: int = 0
    scored: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the scores that there are."""
        return self.total / self.scored if self.scored else None

    def passing(self, rows: Iterable[ScoredSample]) -> Iterator[ScoredSample]:
        """The rows, counted."""
        for row in rows:
            self.responses += 1
            if row.score is not None:
                self.scored += 1
                self.total += row.score
            yield row

    def require_some(self, reward: Reward) -> None:
        """Raises RewardError where there are responses and none has a score."""
        if self.responses and not self.scored:
            why = ", ".join(f"{reason} {n}" for reason, n in reward.unscored.items())
            raise RewardError(
                f"none of {self.responses} responses has a score ({why}); correct the reward, and "
                "run the same command again"
            )


def write_scores(samples: Iterable[Sample], reward: Reward, folder: Path) -> ScoringSummary:
    """Write SCORES into a folder; until it is there, the journal beside it.

    Raises as `score_samples`, and RewardError where no response has a score.
    """
    summary = ScoringSummary()
    rows = summary.passing(score_samples(samples, reward, folder / JOURNAL))
    with replacing(folder / SCORES) as partial:
        write_parquet(partial, (row.model_dump() for row in rows), scored_schema())
        summary.require_some(reward)
    (folder / JOURNAL).unlink()  # a later reward is asked about all of them
    return summary


def _key(sample: Sample, identity: Any) -> str:
    messages = [[m.role, m.content] for m in sample.prompt.messages]
    ending = [sample.complete, sample.end_token]
    content = json.dumps([identity, messages, sample.response, ending], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
