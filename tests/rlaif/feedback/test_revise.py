"""Critique and revision: what is asked, what is kept, and that a killed run goes on."""

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
from rlaif.feedback.revise import JOURNAL, REVISIONS, UNREVISED, RevisionError, revise
from tests.support.feedback.local_judge import LocalJudge
from tests.support.service.serving import ONE_PRINCIPLE

Asked = tuple[str, str, str, int]  # verb, response, principle asked for, seed


class Writer:
    """A judge that criticizes and revises by appending; `answer` may say otherwise."""

    def __init__(self, law: Constitution, answer: Callable[[str, str], object] | None = None):
        self.info = LocalJudge(law).server_info()
        self.law, self.answer = law, answer
        self.asked: list[Asked] = []
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
            self.asked.append((verb, response, options.principle_id, options.seed))
        found = self.answer(verb, response) if self.answer else None
        if isinstance(found, Exception):
            raise found
        if found is not None:
            return found
        return writing(self.law, self.info, text)


def writing(law: Constitution, info: ServerInfo, text: str, complete: bool = True) -> Writing:
    assert info.model is not None
    origin = Provenance(
        law.name, law.version, law.digest, info.model, info.template_version, ("says-more",),
        (Order.AB,), 0,
    )  # fmt: skip
    return Writing(text, complete, "says-more", origin, Usage(output_tokens=3), 0.1)


@pytest.fixture
def law(tmp_path: Path) -> Constitution:
    path = tmp_path / "brief.yaml"
    path.write_text(ONE_PRINCIPLE, encoding="utf-8")
    return Constitution.load(path)


def samples(n: int = 3) -> list[Sample]:
    return [
        Sample(
            prompt=Prompt(id=f"p{i}", messages=(Message(role="user", content=f"question {i}"),)),
            index=0, response=f"answer {i}", tokens=3, complete=True, seed=i,
        )
        for i in range(n)
    ]  # fmt: skip


def test_the_last_revision_is_what_sft_imitates(law, tmp_path):
    judge = Writer(law)
    found = revise(samples(), judge, tmp_path / "out", constitution="brief", rounds=2)
    lessons = read_lessons(tmp_path / "out" / REVISIONS)
    assert [(one.id, one.response) for one in lessons] == [
        (f"p{i}#0", f"answer {i}!!") for i in range(3)
    ]
    assert lessons[0].prompt[0].content == "question 0"
    assert (found.revised, found.asked, found.principles) == (3, 6, {"says-more": 6})


def test_a_revision_goes_by_the_principle_and_the_seed_of_its_critique(law, tmp_path):
    judge = Writer(law)
    revise(samples(2), judge, tmp_path / "out", constitution="brief", rounds=2, concurrency=1)
    of = {(verb, response): (principle, seed) for verb, response, principle, seed in judge.asked}
    assert of["critique", "answer 0"][0] == ""  # drawn by the judge with the seed
    assert of["revision", "answer 0"][0] == "says-more"
    assert of["critique", "answer 0"][1] == of["revision", "answer 0"][1]
    assert len({seed for _, seed in of.values()}) == 4  # another for each sample and round


def test_a_killed_run_asks_only_for_what_is_left(law, tmp_path):
    away = Writer(law, lambda verb, r: JudgeUnavailable("gone") if r == "answer 2" else None)
    with pytest.raises(JudgeUnavailable):
        revise(samples(), away, tmp_path / "cut", constitution="brief", concurrency=1)
    judge = Writer(law)
    found = revise(samples(), judge, tmp_path / "cut", constitution="brief", concurrency=1)
    assert [response for _, response, _, _ in judge.asked] == ["answer 2"] * 2
    assert (found.revised, found.asked) == (3, 1)
    revise(samples(), Writer(law), tmp_path / "whole", constitution="brief")
    whole, cut = (tmp_path / name / REVISIONS for name in ("whole", "cut"))
    assert whole.read_text() == cut.read_text()
    assert len((tmp_path / "cut" / JOURNAL).read_text().splitlines()) == 3
    judge.asked.clear()
    revise(samples(), judge, tmp_path / "cut", constitution="brief", max_tokens=99)
    assert len(judge.asked) == 6  # asked otherwise, so asked anew


def test_what_cannot_be_revised_is_no_lesson_and_is_counted(law, tmp_path):
    refused = Unjudged(UnjudgedReason.TOO_LONG, "the prompt does not fit")

    def answer(verb, response):
        if (verb, response) == ("critique", "answer 0"):
            return refused
        if (verb, response) == ("revision", "answer 1"):
            return writing(law, judge.info, "cut off in the mid", complete=False)
        return None

    judge = Writer(law, answer)
    found = revise(samples(), judge, tmp_path, constitution="brief", rounds=2)
    assert [one.id for one in read_lessons(tmp_path / REVISIONS)] == ["p2#0"]
    assert found.unrevised_by_reason == {
        "critique: too_long": 1, "revision: cut at max_tokens": 1
    }  # fmt: skip
    told = [json.loads(line) for line in (tmp_path / UNREVISED).read_text().splitlines()]
    assert [line["id"] for line in told] == ["p0#0", "p1#0"]
    judge.answer = lambda verb, response: refused
    with pytest.raises(RevisionError, match=r"none of 3 .*critique: too_long 3"):
        revise(samples(), judge, tmp_path / "none", constitution="brief")


def test_a_judge_that_changes_underway_is_told(law, tmp_path):
    other = law.model_copy(update={"version": "2.0.0"})
    judge = Writer(law, lambda verb, r: writing(other, judge.info, "x") if "2" in r else None)
    with pytest.raises(RevisionError, match="the judge changed while revising"):
        revise(samples(), judge, tmp_path, constitution="brief", concurrency=1)
    with pytest.raises(RevisionError, match="rounds=0"):
        revise(samples(), judge, tmp_path, rounds=0)


async def test_a_real_server_is_asked_from_several_threads(tmp_path):
    import asyncio

    from judge_service.client.sync import JudgeClient
    from tests.support.fakes import FakeEngine
    from tests.support.service.serving import one_principle, serving

    engine = FakeEngine(latency_seconds=0.02)
    async with serving(engine, constitutions=(one_principle(tmp_path),)) as server:

        def work():
            with JudgeClient(server.address) as client:
                return revise(samples(6), client, tmp_path / "out", rounds=2, concurrency=3)

        found = await asyncio.to_thread(work)
    assert (found.revised, found.asked) == (6, 12)
    assert engine.peak_in_flight == 3
    assert {one.response for one in read_lessons(found.path)} == {"an answer"}


async def test_the_command_says_what_was_revised_and_where(tmp_path):
    import asyncio

    from typer.testing import CliRunner

    from rlaif.cli.main import app
    from rlaif.data.records import write_jsonl
    from tests.support.fakes import FakeEngine
    from tests.support.service.serving import one_principle, serving

    write_jsonl(tmp_path / "samples.jsonl", samples(3))
    async with serving(FakeEngine(), constitutions=(one_principle(tmp_path),)) as server:
        words = ["revise", str(tmp_path / "samples.jsonl"), "-c", "brief", "--server"]
        words += [server.address, "--out", str(tmp_path / "out")]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 0, done.output
    assert "3 of 3 responses revised, left out: none; 3 rounds written" in done.output
    assert len(read_lessons(tmp_path / "out" / "revisions.jsonl")) == 3
