"""A judge that is started only where the journal lacks an answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import rlaif
from constitution.schema import Constitution, Message
from constitution.writer import to_yaml
from judge_service.judge.calibration import SUFFIX
from rlaif.cli.main import app
from rlaif.data.records import Prompt, Sample, write_jsonl
from rlaif.evaluation.policies import EvaluationResult
from rlaif.feedback.client import JudgeWhenNeeded
from tests.support.feedback.local_judge import LocalJudge
from tests.support.planted.judges import ROOT, judge_file

PLANTED = ROOT / "benchmarks" / "planted" / "judge.yaml"
NOT_STARTED = "was not started: all its answers are in"


def responses(*texts: str, count: int = 3) -> list[Sample]:
    return [
        Sample(
            prompt=Prompt(id=f"q{n}", messages=(Message(role="user", content=f"Q{n}?"),)),
            index=index, response=f"{text} {n}", tokens=3, complete=True, seed=0,
        )
        for n in range(count)
        for index, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[LocalJudge]:
    """The judges that were started, each with the prompts that it read."""
    judges: list[LocalJudge] = []

    @contextmanager
    def judge_client(model: str, constitution: str, *_: Any, **__: Any) -> Iterator[LocalJudge]:
        judges.append(LocalJudge(Constitution.load(constitution or "overall")))
        yield judges[-1]

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    return judges


def test_a_judge_that_has_answered_every_pair_is_not_started_again(
    started: list[LocalJudge], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def labeled(count: int, constitution: str = "hhh") -> Any:
        return rlaif.label(
            responses("yes", "no", count=count), out=tmp_path / "labels",
            judge=f"planted:{PLANTED}", constitution=constitution, replace_labels=True,
        )  # fmt: skip

    first = labeled(3)
    assert (first.asked, len(started)) == (3, 1)
    assert NOT_STARTED not in capsys.readouterr().err
    again = labeled(3)
    assert (again.judged, again.asked, len(started)) == (3, 0, 1)
    assert f"{NOT_STARTED} {tmp_path / 'labels'} already" in capsys.readouterr().err
    # Another pair, or another constitution, has no answer yet.
    assert (labeled(4).asked, len(started)) == (1, 2)
    assert (labeled(4, "overall").asked, len(started)) == (4, 3)
    assert (labeled(3).asked, len(started)) == (0, 3), "both are known now"


def test_a_judge_whose_file_changed_is_started_to_say_what_it_is_now(
    started: list[LocalJudge], tmp_path: Path
) -> None:
    for flip in (0.0, 0.0, 0.1):
        planted = judge_file(tmp_path, flip=flip)
        rlaif.label(
            responses("yes", "no"), out=tmp_path / "labels", judge=f"planted:{planted}",
            constitution="hhh",
        )  # fmt: skip
    assert len(started) == 2


def test_a_judge_is_started_to_apply_a_calibration_that_was_fitted_since(
    started: list[LocalJudge], tmp_path: Path
) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(to_yaml(Constitution.load("hhh")))
    for calibrated in (False, False, True, True):
        if calibrated:
            (tmp_path / f"mine{SUFFIX}").write_text("{}")
        rlaif.label(
            responses("yes", "no"), out=tmp_path / "labels", judge=f"planted:{PLANTED}",
            constitution=rules,
        )  # fmt: skip
    assert len(started) == 2


def test_an_unreadable_record_of_what_was_served_starts_the_judge(
    started: list[LocalJudge], tmp_path: Path
) -> None:
    for _ in range(2):
        rlaif.label(
            responses("yes", "no"), out=tmp_path, judge=f"planted:{PLANTED}", constitution="hhh"
        )
        (tmp_path / "judge.served.json").write_text("{")
    assert len(started) == 2


def test_an_evaluation_that_is_made_again_starts_no_judge(
    started: list[LocalJudge], tmp_path: Path
) -> None:
    for name, text in (("start", "no"), ("dpo", "yes indeed")):
        write_jsonl(tmp_path / f"{name}.jsonl", responses(text))
    command = [
        "evaluate", f"dpo={tmp_path / 'dpo.jsonl'}", "--start", str(tmp_path / "start.jsonl"),
        "--judge", f"planted:{PLANTED}", "--out", str(tmp_path / "e"),
    ]  # fmt: skip
    results = []
    for _ in range(2):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        results.append(EvaluationResult.load(tmp_path / "e" / "evaluation.json"))
    assert results[0] == results[1]
    assert NOT_STARTED in done.output
    assert len(started) == 1


def test_threads_that_ask_for_ratings_at_once_start_one_judge() -> None:
    started: list[Any] = []

    class CountedRater:
        def score(self, *asked: Any, timeout: float) -> Any:
            return asked[1], timeout

    def start() -> Any:
        started.append(CountedRater())
        return started[-1]

    known: Any = None  # of no use to a rating
    options: Any = None
    judge = JudgeWhenNeeded(known, start)
    assert judge.started is None
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(judge.score, (), f"r{i}", "", options, timeout=i) for i in range(32)]
    assert [each.result() for each in answers] == [(f"r{i}", i) for i in range(32)]
    assert len(started) == 1
