"""Rounds of critique and revision: the requests, the principles, and continuing a killed run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from constitution.schema import Constitution, Message
from judge_service.errors import JudgeUnavailable
from judge_service.server_info import ServerInfo
from judge_service.types import (
    Order,
    Provenance,
    Unjudged,
    UnjudgedReason,
    Usage,
    Writing,
    WritingOptions,
)
from rlaif.data.datasets import read_lessons
from rlaif.data.records import Prompt, Sample
from rlaif.feedback.revisions.lessons import (
    LESSONS,
    ROUNDS_JOURNAL,
    UNREVISED,
    RevisionMethod,
    revise,
)
from rlaif.feedback.revisions.rounds import RevisionError
from tests.support.feedback.local_judge import LocalJudge
from tests.support.service.serving import ONE_PRINCIPLE

Request = tuple[str, str, str, int]  # verb, response, principle id, seed


class Writer:
    """A judge that criticizes and revises by appending; `answer` can override it."""

    def __init__(
        self, constitution: Constitution, answer: Callable[[str, str], object] | None = None
    ):
        self.info = LocalJudge(constitution).server_info()
        self.constitution, self.answer = constitution, answer
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    def server_info(self) -> ServerInfo:
        return self.info

    def critique(self, conversation, response, constitution, options):
        return self._write("critique", response, f"too short: {response}", options)

    def revise(self, conversation, response, critique, constitution, options):
        assert critique == f"too short: {response}"
        return self._write("revision", response, response + "!", options)

    def _write(self, verb: str, response: str, text: str, options: WritingOptions):
        with self.lock:
            self.requests.append((verb, response, options.principle_id, options.seed))
        answer = self.answer(verb, response) if self.answer else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        return writing(self.constitution, self.info, text)


def writing(
    constitution: Constitution, info: ServerInfo, text: str, complete: bool = True
) -> Writing:
    assert info.model is not None
    origin = Provenance(
        constitution.name, constitution.version, constitution.digest, info.model,
        info.template_version, ("says-more",), (Order.AB,), 0,
    )  # fmt: skip
    return Writing(text, complete, "says-more", origin, Usage(output_tokens=3), 0.1)


@pytest.fixture
def constitution(tmp_path: Path) -> Constitution:
    path = tmp_path / "brief.yaml"
    path.write_text(ONE_PRINCIPLE, encoding="utf-8")
    return Constitution.load(path)


def ungated(**changes: object) -> RevisionMethod:
    """All clean revisions are lessons."""
    return RevisionMethod(**{"constitution": "brief", "gate": None, "pilot": None} | changes)


def samples(n: int = 3) -> list[Sample]:
    return [
        Sample(
            prompt=Prompt(id=f"p{i}", messages=(Message(role="user", content=f"question {i}"),)),
            index=0, response=f"answer {i}", tokens=3, complete=True, seed=i,
        )
        for i in range(n)
    ]  # fmt: skip


def test_the_last_revision_becomes_the_demonstration(constitution, tmp_path):
    judge = Writer(constitution)
    found = revise(samples(), judge, tmp_path / "out", ungated(rounds=2))
    lessons = read_lessons(tmp_path / "out" / LESSONS)
    assert [(one.id, one.response) for one in lessons] == [
        (f"p{i}#0", f"answer {i}!!") for i in range(3)
    ]
    assert lessons[0].prompt[0].content == "question 0"
    assert (found.lessons, found.asked, found.principles) == (3, 6, {"says-more": 6})


def test_a_revision_has_the_principle_and_the_seed_of_its_critique(constitution, tmp_path):
    judge = Writer(constitution)
    revise(samples(2), judge, tmp_path / "out", ungated(rounds=2, concurrency=1))
    of = {(verb, response): (principle, seed) for verb, response, principle, seed in judge.requests}
    assert of["critique", "answer 0"][0] == ""  # drawn by the judge with the seed
    assert of["revision", "answer 0"][0] == "says-more"
    assert of["critique", "answer 0"][1] == of["revision", "answer 0"][1]
    assert len({seed for _, seed in of.values()}) == 4  # another for each sample and round


def test_after_a_kill_only_the_rest_is_requested(constitution, tmp_path):
    failing = Writer(
        constitution, lambda verb, r: JudgeUnavailable("gone") if r == "answer 2" else None
    )
    with pytest.raises(JudgeUnavailable):
        revise(samples(), failing, tmp_path / "cut", ungated(concurrency=1))
    judge = Writer(constitution)
    found = revise(samples(), judge, tmp_path / "cut", ungated(concurrency=1))
    assert [response for _, response, _, _ in judge.requests] == ["answer 2"] * 2
    assert (found.lessons, found.asked) == (3, 1)
    revise(samples(), Writer(constitution), tmp_path / "whole", ungated())
    whole, cut = (tmp_path / name / LESSONS for name in ("whole", "cut"))
    assert whole.read_text() == cut.read_text()
    assert len((tmp_path / "cut" / ROUNDS_JOURNAL).read_text().splitlines()) == 3
    judge.requests.clear()
    revise(samples(), judge, tmp_path / "cut", ungated(max_tokens=99))
    assert len(judge.requests) == 6  # another request, so a new answer


def test_a_sample_that_cannot_be_revised_is_counted_and_not_a_demonstration(constitution, tmp_path):
    refused = Unjudged(UnjudgedReason.TOO_LONG, "the prompt does not fit")

    def answer(verb, response):
        if (verb, response) == ("critique", "answer 0"):
            return refused
        if (verb, response) == ("revision", "answer 1"):
            return writing(constitution, judge.info, "cut off in the mid", complete=False)
        return None

    judge = Writer(constitution, answer)
    found = revise(samples(), judge, tmp_path, ungated(rounds=2))
    assert [one.id for one in read_lessons(tmp_path / LESSONS)] == ["p2#0"]
    assert found.refused_by_reason == {
        "critique: too_long": 1, "revision: cut at max_tokens": 1
    }  # fmt: skip
    unrevised = [json.loads(line) for line in (tmp_path / UNREVISED).read_text().splitlines()]
    assert [line["id"] for line in unrevised] == ["p0#0", "p1#0"]
    judge.answer = lambda verb, response: refused
    with pytest.raises(RevisionError, match=r"none of 3 .*critique: too_long 3"):
        revise(samples(), judge, tmp_path / "none", ungated())


def test_a_judge_that_changes_during_the_run_is_an_error(constitution, tmp_path):
    other = constitution.model_copy(update={"version": "2.0.0"})
    judge = Writer(
        constitution, lambda verb, r: writing(other, judge.info, "x") if "2" in r else None
    )
    with pytest.raises(RevisionError, match="the judge changed while revising"):
        revise(samples(), judge, tmp_path, ungated(concurrency=1))
    with pytest.raises(RevisionError, match="invalid rounds: 0"):
        revise(samples(), judge, tmp_path, ungated(rounds=0))


async def test_a_real_server_gets_requests_from_several_threads(tmp_path):
    import asyncio

    from judge_service.client.sync import JudgeClient
    from tests.support.fakes import FakeEngine
    from tests.support.service.serving import one_principle, serving

    engine = FakeEngine(latency_seconds=0.02)
    async with serving(engine, constitutions=(one_principle(tmp_path),)) as server:

        def work():
            with JudgeClient(server.address) as client:
                return revise(
                    samples(6), client, tmp_path / "out", ungated(rounds=2, concurrency=3)
                )

        found = await asyncio.to_thread(work)
    assert (found.lessons, found.asked) == (6, 12)
    assert engine.peak_in_flight == 3
    assert {one.response for one in read_lessons(tmp_path / "out" / LESSONS)} == {"an answer"}


async def test_the_command_reports_the_counts_and_the_file(tmp_path):
    import asyncio

    from typer.testing import CliRunner

    from rlaif.cli.main import app
    from rlaif.data.records import write_jsonl
    from tests.support.fakes import FakeEngine
    from tests.support.service.serving import one_principle, serving

    write_jsonl(tmp_path / "samples.jsonl", samples(3))
    async with serving(FakeEngine(), constitutions=(one_principle(tmp_path),)) as server:
        words = ["revise", str(tmp_path / "samples.jsonl"), "-c", "brief", "--server"]
        words += [server.address, "--no-gate", "--out", str(tmp_path / "out")]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.output
    assert "3 of 3 revisions are lessons; refused: none" in done.output
    assert "3 rounds written" in done.output
    assert len(read_lessons(tmp_path / "out" / LESSONS)) == 3
