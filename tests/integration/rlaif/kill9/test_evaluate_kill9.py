"""kill -9 under `rlaif evaluate --until`: what was judged is kept, and the outcome is the same.

The real command starts a real server of a planted judge. It is killed without warning at several
points of its journal, started again, and compared with one that was never killed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from constitution.schema import Message
from rlaif.data.records import Prompt, Sample, write_jsonl
from tests.support.planted.judges import CONSTITUTION, judge_file
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PROMPTS = 160
KILLED_AT = (5, 40, 70)  # lines of the journal


def samples(kind: str) -> list[Sample]:
    """The policy names a number on two prompts of three, the start on every second."""
    every, first = {"dpo": (3, "Wait."), "start": (2, "Yes.")}[kind]
    return [
        Sample(
            prompt=Prompt(id=f"p{n}", messages=(Message(role="user", content=f"How, {n}?"),)),
            index=0,
            response=f"{first} Try {kind}." if n % every == 0 else f"{first} Wait 5 minutes.",
            tokens=5,
            complete=True,
            seed=0,
        )
        for n in range(PROMPTS)
    ]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    for kind in ("dpo", "start"):
        write_jsonl(tmp_path / f"{kind}.jsonl", samples(kind))
    judge = judge_file(tmp_path, flip=0.2)
    return [
        sys.executable, "-m", "rlaif", "evaluate", f"dpo={tmp_path / 'dpo.jsonl'}",
        "--start", str(tmp_path / "start.jsonl"), "--judge", f"planted:{judge}",
        "--constitution", str(CONSTITUTION), "--until", "0.2", "--out",
    ]  # fmt: skip


def lines(journal: Path) -> list[str]:
    """The whole lines of the journal."""
    return journal.read_text().splitlines() if journal.is_file() else []


def test_a_killed_evaluation_resumes_and_stops_where_it_would_have(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shown = subprocess.run([*command, str(whole)], capture_output=True, text=True, check=True)
    assert "dpo: stopped after" in shown.stdout or "dpo: judged on all" in shown.stdout

    journal, kept = killed / "answers.journal.jsonl", 0
    for enough in KILLED_AT:
        process = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
        try:
            wait_until(
                lambda enough=enough, process=process: (
                    len(lines(journal)) >= enough or process.poll() is not None
                )
            )
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed before it had finished"
        assert len(lines(journal)) >= max(kept, enough)
        kept = len(lines(journal))

    resumed = subprocess.run([*command, str(killed)], capture_output=True, text=True, check=True)
    assert resumed.stdout == shown.stdout
    results = [(folder / "evaluation.json").read_text() for folder in (whole, killed)]
    assert results[0] == results[1]
    keys = [json.loads(line)["key"] for line in lines(journal)]
    assert len(keys) == len(set(keys)), "a pair was judged twice"
    assert len(keys) == len(lines(whole / "answers.journal.jsonl"))
