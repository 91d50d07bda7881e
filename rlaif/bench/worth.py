"""What a judge's benches say it is worth: the figures that `rlaif evaluate --worth` reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from judge_service.types import ModelIdentity
from rlaif.bench.result import BenchResult
from rlaif.data.files import file_sha256
from rlaif.evaluation.judges.worth import JudgeWorth


def worth(
    results: Sequence[BenchResult], model: ModelIdentity, constitution: str
) -> list[JudgeWorth]:
    """A figure per file: the leaderboard's accuracy, and that of naming the longer response.

    constitution: name and version. Figures with RewardBench 2's Ties, which
    lie in [-0.01, 1.01], are clipped to [0, 1].
    """
    today = datetime.now(UTC).date().isoformat()
    found = []
    for each in results:
        overall, path = each.overall, Path(each.file)
        longer = next(floor.value for floor in each.floors if floor.name == "longer")
        chosen = each.length.longer_chosen
        found.append(
            JudgeWorth(
                judge=model.name,
                weights_sha256=model.weights_sha256,
                constitution=constitution,
                gold=path.name,
                gold_sha256=file_sha256(path),
                date=today,
                n=each.questions - sum(each.unanswered.values()),
                accuracy=(accuracy := _share(overall.value)),
                # Wilson's bounds of a share of 0 or 1 may miss it by a rounding error.
                low=min(accuracy, _share(overall.low or 0.0)),
                high=max(accuracy, _share(1.0 if overall.high is None else overall.high)),
                longer=_share(longer),
                longer_chosen=None if chosen is None else chosen.value,
            )
        )
    return found


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
