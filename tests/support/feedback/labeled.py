"""A folder of labels with real receipts, FOR UNIT TESTS ONLY: by the judge over a FakeEngine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from judge_service.types import JudgeOptions
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Preference, write_preferences
from rlaif.feedback.labeler import label
from tests.support.feedback.constitutions import engine, law, pairs, principle
from tests.support.feedback.local_judge import LocalJudge

LAW = law(principle(0, weight=2.0), principle(1), principle(2, trait="honest"), honest=3.0)


def judge() -> LocalJudge:
    return LocalJudge(LAW, engine=engine())


def labeled(folder: Path, count: int = 12) -> Path:
    """The file of `count` labels; one more pair has an empty response and no label."""
    empty = replace(pairs(count + 1)[count], response_a=" ")
    label([*pairs(count), empty], judge(), folder, options=JudgeOptions(interactive=False))
    return folder / "preferences.parquet"


def rewrite(file: Path, place: int, change: Callable[[Preference], Preference]) -> None:
    """Change one label of a file."""
    labels = read_preferences(file)
    labels[place] = change(labels[place])
    write_preferences(file, labels)
