"""Labeling through the real client and server; only the engine is scripted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from constitution.schema import Constitution, Message
from constitution.writer import to_yaml
from judge_service.client.sync import JudgeClient
from judge_service.types import Comparison
from rlaif.data.datasets import read_preferences
from rlaif.feedback.labeler import LabelingError, label
from rlaif.labels.update import update
from tests.support.fakes import FakeEngine
from tests.support.feedback.constitutions import by_rule, edited
from tests.support.service.thread_server import serving_in_thread

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
    with (
        serving_in_thread(
            engine,
            constitutions=("harmless",),
            allow_inline_constitutions=True,
            max_stream_in_flight=4,
            grace_seconds=0,
        ) as (address, stop),
        JudgeClient(address, reconnect_seconds=0.5) as client,
    ):
        yield client, stop


def test_labels_made_over_a_socket_have_receipts(tmp_path: Path):
    with serving(FakeEngine()) as (client, _):
        summary = label(PAIRS, client, tmp_path)
        assert label(PAIRS, client, tmp_path).asked == 0
    assert summary.judged == 30
    assert summary.judge.constitution.name == "harmless"
    found = read_preferences(tmp_path / "preferences.parquet")
    assert {p.chosen_text for p in found} == {"a longer answer with a next step"}


@pytest.mark.parametrize("how", ["server", "engine"])
def test_a_judge_that_dies_during_labeling_loses_no_label(tmp_path: Path, how: str):
    class Dying(FakeEngine):
        reads = 0

        async def read(self, *args, **kwargs):
            self.reads += 1
            if self.reads == 200:
                self.die() if how == "engine" else stop.set()
            return await super().read(*args, **kwargs)

    engine = Dying(latency_seconds=0.001)
    with serving(engine) as (client, stop), pytest.raises(LabelingError) as error:
        label(PAIRS, client, tmp_path)
    assert "of 30 labels are saved" in str(error.value)
    assert not (tmp_path / "preferences.parquet").exists()

    with serving(FakeEngine()) as (client, _):
        summary = label(PAIRS, client, tmp_path)
    assert summary.judged == 30
    assert 0 < summary.asked < 30


def test_an_update_reads_only_the_reworded_principle(tmp_path: Path):
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
