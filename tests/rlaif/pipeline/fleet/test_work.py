"""Stages whose rows a fleet makes: the files of a run without one, whoever is killed.

The fleet makes the shards in this process, and the judge is a real server over a fake engine. With
Ray: tests/integration/rlaif/kill9/test_ray_recipe_kill9.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from constitution.errors import UserError
from rlaif.data.datasets import read_lessons, read_preferences
from rlaif.data.records import Prompt, Sample, read_jsonl, write_jsonl
from rlaif.data.samples import read_samples
from rlaif.distributed.fleet import RETRIED
from rlaif.feedback.connection import judge_at
from rlaif.generation import offline
from rlaif.models import catalog
from rlaif.pipeline.context import RunContext
from rlaif.pipeline.fleet import work
from rlaif.pipeline.fleet.work import FleetWorkError
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.recipe import Recipe
from rlaif.pipeline.runner import digested
from rlaif.pipeline.stage import Stage
from rlaif.sharding import judge as judges
from rlaif.sharding import sampling
from tests.support.fakes import FakeEngine
from tests.support.service.serving import one_principle
from tests.support.service.thread_server import serving_in_thread

PROMPTS = 10


class HereFleet:
    """Does the tasks in this process. before: called with each of them, and may raise."""

    def __init__(self) -> None:
        self.before: Callable[[str], None] = lambda name: None
        self.asked: list[list[str]] = []

    def results(self, names: Iterable[str], opens: Any) -> Iterator[tuple[str, str | UserError]]:
        self.asked.append(list(names))
        with opens() as do:
            for name in self.asked[-1]:
                try:
                    self.before(name)
                    yield name, do(name)
                except UserError as error:
                    yield name, error


class FleetBench:
    """A folder with samples, a judge that serves, and recipes with and without a fleet."""

    def __init__(self, folder: Path, server: str, engine: FakeEngine, rules: str) -> None:
        self.folder, self.server, self.engine, self.rules = folder, server, engine, rules
        self.fleet = HereFleet()
        self.started_here = 0
        self.flags: Sequence[str] = ()  # of a worker's judge
        self.samples = folder / "samples.jsonl"
        write_jsonl(self.samples, [s for n in range(PROMPTS) for s in answers(f"question {n}", 2)])
        (folder / "prompts.jsonl").write_text(
            "".join(
                json.dumps({"prompt": f"question {n}", "split": "train"}) + "\n"
                for n in range(PROMPTS)
            )
        )

    def stage(
        self, run: str, stage: dict[str, Any], fleet: bool, **more: Any
    ) -> tuple[Stage, RunContext]:
        """The only stage of a recipe, in a folder of the run's name."""
        made_from = {"model": "policy"} if stage["kind"] == "sample" else {"samples": self.samples}
        used = "policy" if stage["kind"] == "sample" else "judge"
        recipe = Recipe.model_validate(
            {
                "name": "x",
                "models": {used: "org/model"},
                "constitution": self.rules,
                "prompts": str(self.folder / "prompts.jsonl"),
                "stages": {"only": {**made_from, **stage}},
                **({"fleet": {"ray": "local", "rows": 4, **more}} if fleet else {}),
            }
        )
        graph = build_graph(recipe, self.folder / run)
        return graph["only"], RunContext(recipe, self.folder / run)

    def run(self, run: str, stage: dict[str, Any], fleet: bool = True, **more: Any) -> Path:
        """The folder of the stage, which has run. more: settings of the fleet."""
        made, context = self.stage(run, stage, fleet, **more)
        made.folder.mkdir(parents=True, exist_ok=True)
        made.run(context)
        return made.folder


def answers(question: str, n: int) -> Iterator[Sample]:
    prompt = Prompt.model_validate(
        {"id": question, "messages": [{"role": "user", "content": question}], "split": "train"}
    )
    for index in range(n):
        text = "no" * (index + 1) + question[-1]
        yield Sample(prompt=prompt, index=index, response=text, tokens=3, complete=True, seed=index)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetBench]:
    rules, engine = one_principle(tmp_path), FakeEngine()
    with serving_in_thread(engine, constitutions=(rules,)) as (server, _):
        bench = FleetBench(tmp_path, server, engine, rules)

        @contextmanager
        def of_a_worker(*_: Any, flags: Sequence[str], **__: Any) -> Iterator[Any]:
            bench.flags = flags
            with judge_at(server) as client:
                yield client

        @contextmanager
        def of_the_stage(*_: Any, **__: Any) -> Iterator[Any]:
            bench.started_here += 1
            with judge_at(server) as client:
                yield client

        monkeypatch.setattr(judges, "judge_client", of_a_worker)
        monkeypatch.setattr(RunContext, "judge_client", of_the_stage)
        monkeypatch.setattr(work, "_ray", lambda _: bench.fleet)
        yield bench


def labels_in(folder: Path) -> list[str]:
    rows = read_preferences(folder / "preferences.parquet")
    return [row.model_dump_json(exclude={"receipt"}) for row in rows]


def counts_in(folder: Path, name: str) -> dict[str, Any]:
    """A summary, without what this run did and how long it took."""
    summary: dict[str, Any] = json.loads((folder / name).read_text())
    own = ("asked", "seconds", "stored_reads", "reads", "prompt_tokens", "cached_tokens")
    return {k: v for k, v in summary.items() if not k.startswith(own)}


@pytest.mark.parametrize("settings", [{}, {"filter": 0.9}, {"seed": 3, "max_length_ratio": 3.0}])
def test_labels_of_a_fleet_are_those_of_a_run_without_one(
    bench: FleetBench, settings: dict[str, Any]
) -> None:
    stage = {"kind": "label", **settings}
    alone = bench.run("alone", stage, fleet=False)
    started = bench.started_here

    shared = bench.run("shared", stage)

    assert bench.started_here == started, "the stage itself had nothing left to ask"
    assert labels_in(shared) == labels_in(alone)
    assert len(labels_in(shared)) == PROMPTS
    summary = "labels.summary.json"
    assert counts_in(shared, summary) == counts_in(alone, summary)
    assert not (shared / "shards").exists()
    assert bench.fleet.asked == [[f"{n:05d}.parquet" for n in range(5)]]


def test_lessons_of_a_fleet_are_those_of_a_run_without_one(bench: FleetBench) -> None:
    stage = {"kind": "revise", "max_tokens": 8}
    alone, shared = bench.run("alone", stage, fleet=False), bench.run("shared", stage)

    assert bench.started_here == 1
    assert read_lessons(shared / "lessons.jsonl") == read_lessons(alone / "lessons.jsonl")
    pairs = [read_preferences(folder / "pairs.parquet") for folder in (alone, shared)]
    assert [p.prob_chosen for p in pairs[1]] == [p.prob_chosen for p in pairs[0]]
    summary = "revisions.summary.json"
    assert counts_in(shared, summary) == counts_in(alone, summary)


def test_samples_of_a_fleet_are_those_of_a_run_without_one(
    bench: FleetBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the sampler."""

    def sample(model: str, prompts: Any, out: Path, config: Any, *_: Any) -> list[Sample]:
        drawn = [s for prompt in prompts for s in answers(prompt.messages[-1].content, config.n)]
        write_jsonl(out, drawn)
        return drawn

    monkeypatch.setattr(offline, "sample", sample)
    monkeypatch.setattr(sampling, "sample", sample)
    monkeypatch.setattr(catalog, "resolve", lambda name: name)
    stage = {"kind": "sample", "n": 3}
    alone, shared = bench.run("alone", stage, fleet=False), bench.run("shared", stage)

    drawn = read_jsonl(shared / "samples.jsonl", Sample)
    assert drawn == read_samples(alone / "samples.jsonl")
    assert len(drawn) == 3 * PROMPTS


def test_a_killed_run_makes_only_the_missing_shards(bench: FleetBench) -> None:
    def killed(name: str) -> None:
        if name == "00003.parquet":
            raise KeyboardInterrupt

    bench.fleet.before = killed
    with pytest.raises(KeyboardInterrupt):
        bench.run("shared", {"kind": "label"})
    read = len(bench.engine.prompts)
    bench.fleet.before = lambda name: None
    shared = bench.run("shared", {"kind": "label"})

    assert len(bench.engine.prompts) - read == read * 2 / 3, "three of five were there"
    assert labels_in(shared) == labels_in(bench.run("alone", {"kind": "label"}, fleet=False))


def test_a_run_killed_after_the_last_shard_asks_no_worker(
    bench: FleetBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run("shared", {"kind": "label"})
    bench.run("shared", {"kind": "label"})

    assert len(bench.fleet.asked) == 1


def test_a_shard_that_is_set_aside_is_named_counted_and_tried_again(
    bench: FleetBench, capsys: pytest.CaptureFixture[str]
) -> None:
    def poison(name: str) -> None:
        if name == "00001.parquet":
            raise UserError("3 workers died at it")

    bench.fleet.before = poison
    with pytest.raises(FleetWorkError) as refused:
        bench.run("shared", {"kind": "label"})

    assert "1 of 5 shards are missing; run again: it makes only those" in str(refused.value)
    assert "00001.parquet: 3 workers died at it" in str(refused.value)
    assert "only: 4 of 5 shards, 4 made by this run" in capsys.readouterr().err
    bench.fleet.before = lambda name: None
    assert len(labels_in(bench.run("shared", {"kind": "label"}))) == PROMPTS
    assert "only: 5 of 5 shards, 1 made by this run" in capsys.readouterr().err


def test_lost_tries_are_counted(
    bench: FleetBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = HereFleet.results

    def lossy(self: HereFleet, names: Iterable[str], opens: Any) -> Iterator[Any]:
        for name, became in results(self, names, opens):
            if name == "00002.parquet":
                yield name, RETRIED
            yield name, became

    monkeypatch.setattr(HereFleet, "results", lossy)
    bench.run("shared", {"kind": "label"})

    assert "tries lost with their worker 1, set aside 0" in capsys.readouterr().err


def test_shards_of_other_settings_are_not_taken(bench: FleetBench) -> None:
    def killed(name: str) -> None:
        if name == "00003.parquet":
            raise KeyboardInterrupt

    bench.fleet.before = killed
    for settings in ({}, {"seed": 1}):
        with pytest.raises(KeyboardInterrupt):
            bench.run("shared", {"kind": "label", **settings})
    (shards,) = (bench.folder / "shared" / "only" / "shards").iterdir()

    assert len(list((shards / "out").glob("*.parquet"))) == 3


def test_a_finished_stage_is_the_same_with_a_fleet_and_without(bench: FleetBench) -> None:
    stage = {"kind": "label"}
    first, second = (digested(*bench.stage("run", stage, fleet)) for fleet in (True, False))

    assert first == second


@pytest.mark.parametrize("kind", ["label", "revise"])
def test_a_workers_judge_has_the_flags_of_the_model_and_is_split_over_its_gpus(
    bench: FleetBench, kind: str
) -> None:
    bench.run("shared", {"kind": kind}, gpus=2)

    assert bench.flags == ("--dtype", "auto", "--tensor-parallel-size", "2")


def test_responses_of_two_files_to_one_prompt_meet_in_one_shard(bench: FleetBench) -> None:
    """Each file has one response to every prompt, so that no pair lies within one."""
    rows = read_jsonl(bench.samples, Sample)
    paths = [bench.folder / "first.jsonl", bench.folder / "second.jsonl"]
    for index, path in enumerate(paths):
        write_jsonl(path, [row for row in rows if row.index == index])
    stage = {"kind": "label", "samples": paths}

    assert len(labels_in(bench.run("shared", stage))) == PROMPTS
