"""Labels by all servers of a list, through the real client and servers; the engine is scripted."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from constitution.schema import Message
from judge_service.client.sync import JudgeClient, JudgeRequestError
from judge_service.types import Comparison, Score, WritingOptions
from rlaif.data.records import Prompt, Sample
from rlaif.feedback.filter import rate_samples
from rlaif.feedback.labeler import JOURNAL, LabelingError, comparer, label
from rlaif.feedback.revisions.rounds import write_rounds
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle
from tests.support.service.thread_server import serving_in_thread


def pairs(n: int) -> list[Comparison]:
    return [
        Comparison(f"p{number}", (Message(role="user", content=f"question {number}"),), "aa", "b")
        for number in range(n)
    ]


def samples(n: int) -> list[Sample]:
    prompts = (Prompt(id=f"p{n}", messages=pair.conversation) for n, pair in enumerate(pairs(n)))
    return [
        Sample(prompt=prompt, index=0, response="so", tokens=1, complete=True, seed=0)
        for prompt in prompts
    ]


@contextmanager
def all_serving(*engines: FakeEngine, rules: str) -> Iterator[tuple[JudgeClient, list[Event]]]:
    """A client to a server over each engine, and the events that end the servers."""
    with ExitStack() as stack:
        how = {"constitutions": (rules,), "max_stream_in_flight": 8, "grace_seconds": 0}
        servers = [stack.enter_context(serving_in_thread(engine, **how)) for engine in engines]
        address = ",".join(address for address, _ in servers)
        client = stack.enter_context(JudgeClient(address, reconnect_seconds=0.5))
        yield client, [stop for _, stop in servers]


def journaled(folder: Path) -> Counter[str]:
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["id"] for line in lines)


def test_labels_come_from_all_servers(tmp_path: Path) -> None:
    engines = [FakeEngine(latency_seconds=0.001) for _ in range(3)]
    with all_serving(*engines, rules=one_principle(tmp_path)) as (client, _):
        summary = label(pairs(300), client, tmp_path / "labels")
    assert summary.judged == 300
    assert journaled(tmp_path / "labels") == Counter(pair.id for pair in pairs(300))
    assert sum(len(engine.prompts) for engine in engines) == 600, "two reads a pair"
    assert all(len(engine.prompts) > 60 for engine in engines)


def test_a_server_killed_in_the_middle_costs_no_label_and_repeats_none(tmp_path: Path) -> None:
    class StopsItsServer(FakeEngine):
        async def read(self, *args, **kwargs):
            if len(self.prompts) == 60:
                stops[0].set()
            return await super().read(*args, **kwargs)

    dying, other = StopsItsServer(latency_seconds=0.001), FakeEngine(latency_seconds=0.001)
    with all_serving(dying, other, rules=one_principle(tmp_path)) as (client, stops):
        summary = label(pairs(300), client, tmp_path / "labels")
    assert summary.judged == 300
    assert journaled(tmp_path / "labels") == Counter(pair.id for pair in pairs(300))
    assert 60 < len(dying.prompts) < 300
    assert len(dying.prompts) + len(other.prompts) <= 600 + 2 * 8, "only what was in flight, twice"


def test_when_all_servers_die_the_labels_so_far_are_saved(tmp_path: Path) -> None:
    class DiesByItself(FakeEngine):
        async def read(self, *args, **kwargs):
            if len(self.prompts) == 60:
                self.die()
            return await super().read(*args, **kwargs)

    rules = one_principle(tmp_path)
    engines = [DiesByItself(latency_seconds=0.001) for _ in range(2)]
    with all_serving(*engines, rules=rules) as (client, _), pytest.raises(LabelingError) as error:
        label(pairs(300), client, tmp_path / "labels")
    saved = sum(journaled(tmp_path / "labels").values())
    assert f"{saved} of 300 labels are saved" in str(error.value)
    assert saved > 0
    with all_serving(FakeEngine(), FakeEngine(), rules=rules) as (client, _):
        assert label(pairs(300), client, tmp_path / "labels").asked == 300 - saved


def test_servers_that_are_not_the_same_judge_label_nothing(tmp_path: Path) -> None:
    rules, other_rules = one_principle(tmp_path), tmp_path / "other.yaml"
    other_rules.write_text(Path(rules).read_text().replace("says more", "says less"))
    engines = FakeEngine(), FakeEngine()
    with (
        serving_in_thread(engines[0], constitutions=(rules,)) as (one, _),
        serving_in_thread(engines[1], constitutions=(str(other_rules),)) as (other, _),
        JudgeClient(f"{one},{other}") as client,
        pytest.raises(JudgeRequestError, match=f"{one} and {other} are not the same judge"),
    ):
        label(pairs(9), client, tmp_path / "labels")
    assert engines[0].prompts == engines[1].prompts == []
    assert not (tmp_path / "labels").exists()


def test_win_rates_ratings_and_revisions_come_from_all_servers_too(tmp_path: Path) -> None:
    engines = [FakeEngine(latency_seconds=0.001) for _ in range(2)]
    rules = one_principle(tmp_path)

    def read_since(before: list[int]) -> list[int]:
        return [len(e.prompts) - n for e, n in zip(engines, before, strict=True)]

    with all_serving(*engines, rules=rules) as (client, _):
        compare = comparer(client, tmp_path / "answers.jsonl")
        asked = [(p.id, p.conversation, p.response_a, p.response_b) for p in pairs(40)]
        assert len(compare(asked)) == 40
        assert min(read_since([0, 0])) >= 20
        before = [len(engine.prompts) for engine in engines]
        ratings = rate_samples(samples(40), client, tmp_path / "ratings.jsonl")
        assert all(isinstance(rating, Score) for rating in ratings)
        assert min(read_since(before)) > 0
        options = WritingOptions()
        how = {"constitution": "", "rounds": 1, "options": options, "concurrency": 4}
        written = write_rounds(samples(40), client, tmp_path / "rounds.jsonl", **how)
        assert written.asked == 40
        assert all(engine.writings for engine in engines)
