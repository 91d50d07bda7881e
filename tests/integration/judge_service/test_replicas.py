"""Two replicas over one store: both work, one may be killed, both may be restarted in turn.

Real server processes behind one client with both addresses, under streams and single calls at the
same time. The engines have a fixed speed and no model; they record the reads they start, and take
a while to load, as real ones do. 3 kills and 1 rolling restart by default; 24 and 5 with
RLAIF_FULL=1. The store is an SQLite file, and a PostgreSQL database where one can be started.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from constitution.errors import UserError
from constitution.schema import Message
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison, JudgeOptions, Judgment
from tests.support.service.server_process import ServerProcess
from tests.support.service.serving import one_principle
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

FULL = os.environ.get("RLAIF_FULL") == "1"
KILLS = 24 if FULL else 3
ROLLING_RESTARTS = 5 if FULL else 1
STREAMS, CALLERS = 4, 4
BULK = JudgeOptions(interactive=False)
ENGINE = {"slots": 64, "seconds": 0.5, "loading": 4.0}
"""Calls are under way whenever a server stops, and it loads for longer than a call is retried."""


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file, or a database's URL."""
    if request.param == "sqlite":
        return str(tmp_path / "reads.sqlite")
    return str(request.getfixturevalue("database"))


@contextmanager
def replicas(folder: Path, store: str) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    constitution = one_principle(folder)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                ServerProcess(folder, constitution, store, name=name, max_stream_in_flight=16)
            )
            for name in ("first", "second")
        )
        for server in (first, second):
            server.start(**ENGINE | {"loading": 0.0})
        yield first, second


class Load:
    """Streams and single calls in threads of their own, each with questions of its own."""

    def __init__(self, client: JudgeClient) -> None:
        self.answers = Counter[str]()
        self.sent = Counter[str]()
        self.errors: list[str] = []
        self._client = client
        self._over = threading.Event()
        work = [self._calls] * CALLERS + [self._stream] * STREAMS
        self._threads = [
            threading.Thread(target=self._guarded, args=(job, n)) for n, job in enumerate(work)
        ]

    @property
    def answered(self) -> int:
        return len(self.answers)

    def go_on_for(self, answers: int) -> None:
        enough = self.answered + answers
        wait_until(lambda: self.errors or self.answered >= enough, 300)

    def _guarded(self, job: Callable[[int], None], n: int) -> None:
        try:
            job(n)
        except UserError as error:
            self.errors.append(str(error))

    def _questions(self, n: int) -> Iterator[Comparison]:
        number = 0
        while not self._over.is_set():
            question = f"question {n} of {number // 1000} {number % 1000}"
            id = f"{n}-{number}"
            self.sent[id] += 1
            yield Comparison(
                id, (Message(role="user", content=question),), "short", "rather longer"
            )
            number += 1

    def _stream(self, n: int) -> None:
        for id, outcome in self._client.stream(self._questions(n), options=BULK):
            self._take(id, outcome)

    def _calls(self, n: int) -> None:
        for c in self._questions(n):
            self._take(c.id, self._client.compare(c.conversation, c.response_a, c.response_b))

    def _take(self, id: str, outcome: object) -> None:
        if not isinstance(outcome, Judgment):
            self.errors.append(f"{id}: {outcome}")
        self.answers[id] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive(), "each thread ends after its last question"

    def assert_whole(self) -> None:
        assert not self.errors, self.errors[:3]
        assert self.answers == self.sent, "every question is answered, and once"


@contextmanager
def load(*servers: ServerProcess) -> Iterator[Load]:
    address = ",".join(server.address for server in servers)
    with JudgeClient(address, reconnect_seconds=60) as client, Load(client) as load:
        yield load


def keys_read(server: ServerProcess) -> list[str]:
    return [key for key, _ in server.reads_since(0)[0]]


def wait_until_it_reads(server: ServerProcess) -> None:
    before = len(keys_read(server))
    wait_until(lambda: len(keys_read(server)) > before, 300)


def test_both_replicas_work_and_share_their_reads(tmp_path: Path, store: str) -> None:
    with replicas(tmp_path, store) as (first, second):
        with load(first, second) as both:
            both.go_on_for(200)
        both.assert_whole()
        mine, its = keys_read(first), keys_read(second)
        assert min(len(mine), len(its)) >= 0.2 * len(mine + its), "both get work"
        assert len(set(mine + its)) == len(mine + its), "no read is computed twice"
        with JudgeClient(second.address) as other:
            for id in list(both.answers)[:50]:
                n, number = id.split("-")
                question = f"question {n} of {int(number) // 1000} {int(number) % 1000}"
                judgment = other.compare(question, "short", "rather longer")
                assert judgment.usage.stored_reads == 2
        assert keys_read(second) == its, "the reads of the other replica came from the store"


def test_one_of_two_replicas_may_be_killed_and_no_answer_is_lost_or_repeated(
    tmp_path: Path, store: str
) -> None:
    dice = random.Random()
    with replicas(tmp_path, store) as both:
        with load(*both) as work:
            for _ in range(KILLS):
                work.go_on_for(100)
                time.sleep(dice.uniform(0, 0.5))
                victim = dice.choice(both)
                victim.kill()
                work.go_on_for(50)
                victim.start(**ENGINE)
                wait_until_it_reads(victim)
        work.assert_whole()


def test_a_rolling_restart_disturbs_no_client(tmp_path: Path, store: str) -> None:
    with replicas(tmp_path, store) as both:
        with load(*both) as work:
            for _ in range(ROLLING_RESTARTS):
                for server in both:
                    work.go_on_for(100)
                    server.stop()
                    server.start(**ENGINE)
                    wait_until_it_reads(server)
        work.assert_whole()
        read = [key for server in both for key in keys_read(server)]
        assert len(set(read)) == len(read), "what a server had begun, it finished"
