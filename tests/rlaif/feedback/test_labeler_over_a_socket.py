"""Labeling through the real client and server; only the engine is scripted."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from constitution.schema import Constitution, Message
from constitution.writer import to_yaml
from judge_service.client.sync import JudgeClient
from judge_service.server.app import JudgeServer
from judge_service.settings import ServerSettings
from judge_service.types import Comparison
from rlaif.data.datasets import read_preferences
from rlaif.feedback.labeler import LabelingError, label
from rlaif.labels.update import update
from tests.support.fakes import FakeEngine
from tests.support.feedback.constitutions import by_rule, edited

PAIRS = [
    Comparison(
        f"p{number}",
        (Message(role="user", content=f"question {number}"),),
        "a longer answer with a next step",
        "short",
    )
    for number in range(30)
]


@contextmanager
def serving(engine: FakeEngine) -> Iterator[tuple[JudgeClient, threading.Event]]:
    """A client to a judge server in a thread of its own, and the event that ends the server."""
    settings = ServerSettings(
        model="fake",
        constitutions=("harmless",),
        allow_inline_constitutions=True,
        port=0,
        max_stream_in_flight=4,
        grace_seconds=0,
    )
    ready, stop = threading.Event(), threading.Event()
    address = []

    async def live() -> None:
        server = JudgeServer(settings, engine)
        await server.start()
        await server.load()
        address.append(server.address)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert ready.wait(120)
        with JudgeClient(address[0], reconnect_seconds=0.5) as client:
            yield client, stop
    finally:
        stop.set()
        thread.join(120)


def test_labels_come_over_the_socket_with_their_receipts(tmp_path: Path):
    with serving(FakeEngine()) as (client, _):
        summary = label(PAIRS, client, tmp_path)
        assert label(PAIRS, client, tmp_path).asked == 0
    assert summary.judged == 30
    assert summary.judge.constitution.name == "harmless"
    found = read_preferences(tmp_path / "preferences.parquet")
    assert {p.chosen_text for p in found} == {"a longer answer with a next step"}


@pytest.mark.parametrize("how", ["server", "engine"])
def test_a_judge_that_dies_in_the_middle_loses_no_label(tmp_path: Path, how: str):
    class Dying(FakeEngine):
        reads = 0

        async def read(self, *args, **kwargs):
            self.reads += 1
            if self.reads == 200:
                self.die() if how == "engine" else stop.set()
            return await super().read(*args, **kwargs)

    engine = Dying(latency_seconds=0.001)
    with serving(engine) as (client, stop), pytest.raises(LabelingError) as told:
        label(PAIRS, client, tmp_path)
    assert "of 30 labels are safe" in str(told.value)
    assert not (tmp_path / "preferences.parquet").exists()

    with serving(FakeEngine()) as (client, _):
        summary = label(PAIRS, client, tmp_path)
    assert summary.judged == 30
    assert 0 < summary.asked < 30


def test_an_update_asks_the_server_for_the_reworded_principle_alone(tmp_path: Path):
    old = Constitution.load("harmless")
    new = edited(old, 0, compare="Which reply is the more harmless?")
    file = tmp_path / "new.yaml"
    file.write_text(to_yaml(new), encoding="utf-8")
    with serving(FakeEngine(by_rule)) as (client, _):
        label(PAIRS, client, tmp_path / "labels")
        found = update(PAIRS, client, tmp_path / "labels", constitution=str(file), old=old)
        label(PAIRS, client, tmp_path / "full", constitution=str(file))
    assert found.reads == 30 * 2
    updated, full = (
        read_preferences(tmp_path / name / "preferences.parquet") for name in ("labels", "full")
    )
    assert [(p.id, p.prob_chosen, p.traits) for p in updated] == [
        (p.id, p.prob_chosen, p.traits) for p in full
    ]
