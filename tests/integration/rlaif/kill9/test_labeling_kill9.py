"""kill -9 at random moments under a labeling run: no label is lost or duplicated.

A real server process over a real store, and `label` in a process of its own. Time
after time one of them is killed without warning, mostly the server, and started again; a client
whose server was killed goes on by itself. 50 kills with RLAIF_FULL=1 (some three minutes), 5 by
default. The engine has a fixed speed and no model: it records the reads it starts.

    acknowledged   a line of the client's journal: its reads must be in the store at every kill
    lost, twice    a line that is gone later; a pair with two lines
    read again     a read that was in the store at one kill and begins in the engine after it
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from constitution.schema import Message
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison
from rlaif.data.datasets import read_preferences
from rlaif.feedback.labeler import JOURNAL, PREFERENCES, label
from tests.support.service.server_process import ROOT, ServerProcess
from tests.support.service.serving import one_principle
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

KILLS = 50 if os.environ.get("RLAIF_FULL") == "1" else 5
LABELS_BETWEEN_KILLS = 40
PAIRS = 2 * LABELS_BETWEEN_KILLS * (KILLS + 1)
CLIENTS_KILLED = 0.25  # of all kills
SLOW = {"slots": 8, "seconds": 0.05}  # 160 reads a second, so that kills fall among them

CLIENT = """
import sys
from pathlib import Path
from judge_service.client import JudgeClient
from rlaif.feedback.labeler import label
from tests.integration.rlaif.kill9.test_labeling_kill9 import pairs
with JudgeClient(sys.argv[1], reconnect_seconds=60) as judge:
    label(pairs(), judge, Path(sys.argv[2]))
"""


def pairs() -> list[Comparison]:
    """Told apart by words of at most four letters: see SteadyTokenizer."""
    return [
        Comparison(
            f"p{n}",
            (Message(role="user", content=f"question {n // 1000} {n % 1000}"),),
            "short",
            "rather longer",
        )
        for n in range(PAIRS)
    ]


class KilledRun:
    """A server and a labeling client under attack, and what was true at the last kill."""

    def __init__(self, folder: Path, server: ServerProcess, store: Path) -> None:
        self.server = server
        self.out = folder / "labels"
        self.read_again: list[str] = []
        self._store = store
        self._log = folder / "client.log"
        self._client: subprocess.Popen[bytes] | None = None
        self._journal: list[str] = []
        self._kept: set[str] = set()
        self._seen = 0
        self._key_of: dict[str, str] = {}

    def start_client(self) -> None:
        with self._log.open("ab") as log:
            self._client = subprocess.Popen(
                [sys.executable, "-c", CLIENT, self.server.address, str(self.out)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def kill_client(self) -> None:
        assert self._client is not None
        self._client.kill()
        self._client.wait(120)

    def finish(self, seconds: float) -> None:
        assert self._client is not None
        assert self._client.wait(seconds) == 0, self._log.read_text()[-2000:]

    @property
    def acknowledged(self) -> int:
        journal = self.out / JOURNAL
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def is_running(self) -> bool:
        return self._client is not None and self._client.poll() is None

    def wait_for(self, labels: int) -> None:
        """Until so many more are acknowledged; a client that was just started works then."""
        enough = self.acknowledged + labels
        wait_until(lambda: self.acknowledged >= enough, 300)

    def take_stock(self) -> None:
        """Compare with what was true before, and remember what is true now."""
        lines = self._lines()
        assert lines[: len(self._journal)] == self._journal, "an acknowledged label was lost"
        kept = keys_in(self._store)
        begun, self._seen = self.server.reads_since(self._seen)
        self.read_again += [key for key, _ in begun if key in self._kept]
        self._key_of |= {prompt: key for key, prompt in begun}
        for line in lines[len(self._journal) :]:
            for read in reads_of(line):
                key = self._key_of[read["prompt_sha256"]]
                assert key in kept, "a label was acknowledged before its reads were committed"
        self._journal, self._kept = lines, kept

    def _lines(self) -> list[str]:
        journal = self.out / JOURNAL
        if not journal.exists():
            return []
        return journal.read_bytes().rpartition(b"\n")[0].decode().splitlines()


def reads_of(line: str) -> list[dict[str, Any]]:
    """The reads of one line of the journal."""
    return [read for vote in json.loads(line)["answer"]["votes"] for read in vote["reads"]]


def keys_in(store: Path) -> set[str]:
    connection = sqlite3.connect(store)
    try:
        return {key.hex() for (key,) in connection.execute("SELECT key FROM reads")}
    finally:
        connection.close()


def undisturbed(folder: Path, constitution: str) -> Path:
    """The folder of the same labels from a server that nobody kills."""
    folder.mkdir()
    with ServerProcess(folder, constitution, str(folder / "reads.sqlite")) as server:
        server.start()
        with JudgeClient(server.address) as judge:
            label(pairs(), judge, folder / "labels")
    return folder / "labels"


def labels_in(folder: Path) -> dict[str, tuple[str, float, dict[str, float]]]:
    preferences = read_preferences(folder / PREFERENCES)
    assert len(preferences) == len({preference.id for preference in preferences}) == PAIRS
    return {p.id: (p.chosen_text, p.prob_chosen, p.traits) for p in preferences}


def test_no_label_is_lost_or_duplicated(tmp_path: Path) -> None:
    dice, constitution, store = random.Random(), one_principle(tmp_path), tmp_path / "reads.sqlite"
    with ServerProcess(tmp_path, constitution, str(store)) as server:
        server.start(**SLOW)
        run = KilledRun(tmp_path, server, store)
        run.start_client()
        try:
            for kill in range(KILLS):
                run.wait_for(1 + dice.randrange(LABELS_BETWEEN_KILLS))
                time.sleep(dice.uniform(0, 0.2))
                assert run.is_running(), "killed under load"
                if kill and dice.random() < CLIENTS_KILLED:
                    run.kill_client()
                    run.take_stock()
                    run.start_client()
                else:
                    server.kill()
                    run.take_stock()
                    server.start(**SLOW)
            run.wait_for(1)
            server.kill()
            run.take_stock()
            server.start()  # at full speed
            run.finish(600)
            run.take_stock()
        finally:
            run.kill_client()
    assert run.acknowledged == PAIRS, "every pair is answered, and none twice"
    assert not run.read_again, f"{len(run.read_again)} stored reads were computed again"
    assert labels_in(run.out) == labels_in(undisturbed(tmp_path / "calm", constitution))
