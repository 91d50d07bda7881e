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

    constitution: name and version. Accuracy is at most 1 (RewardBench 2's Ties can reach 1.01).
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
                accuracy=(accuracy := min(overall.value, 1.0)),
                # Wilson's bounds of a share of 0 or 1 may miss it by a rounding error.
                low=min(accuracy, overall.low or 0.0),
                high=max(accuracy, min(1.0, 1.0 if overall.high is None else overall.high)),
                longer=min(longer, 1.0),
                longer_chosen=None if chosen is None else chosen.value,
            )
        )
    return found
