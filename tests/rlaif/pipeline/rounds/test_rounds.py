"""Rounds at work: what is repeated, when they end, which one is kept, and what is read."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from constitution import Constitution
from judge_service.engines.planted import PlantedEngine
from judge_service.planted.file import PlantedJudge
from rlaif.data.records import read_jsonl
from rlaif.evaluation.policies import EvaluationResult
from rlaif.evaluation.rounds.result import RoundsSummary
from rlaif.feedback.labeler import JournalEntry
from rlaif.pipeline import run as running
from rlaif.pipeline.graph import build_graph
from rlaif.pipeline.runner import RunError
from rlaif.report.inputs import ReportInputs, StageFolder
from rlaif.report.page import render_page
from tests.rlaif.pipeline.rounds.conftest import RoundsWorld, in_rounds
from tests.rlaif.report.pages import text_of
from tests.support.feedback.local_judge import LocalJudge
from tests.support.planted.judges import CONSTITUTION, judge_file


def summary(world: RoundsWorld) -> RoundsSummary:
    return RoundsSummary.load(world.folder / "dpo" / "rounds.json")


def test_rounds_each_round_trains_on_the_labels_of_all_rounds_from_the_same_start(
    world: RoundsWorld,
) -> None:
    world.run(in_rounds())
    assert world.trained == [
        ("round-01/dpo", "/models/org/policy", 10),
        ("round-02/dpo", "/models/org/policy", 20),
        ("round-03/dpo", "/models/org/policy", 30),
    ]
    assert summary(world).kept == 3
    kept = (world.folder / "dpo" / "config.json").read_text()
    assert kept == (world.folder / "round-03" / "dpo-model" / "config.json").read_text()


def test_rounds_from_the_last_policy_on_its_own_labels(world: RoundsWorld) -> None:
    world.run(in_rounds(start="last", labels="last"))
    models = [str(world.folder / f"round-0{n}" / "dpo-model") for n in (1, 2)]
    assert world.trained == [
        ("round-01/dpo", "/models/org/policy", 10),
        ("round-02/dpo", models[0], 10),
        ("round-03/dpo", models[1], 10),
    ]


def test_rounds_end_when_a_round_shows_no_gain_and_keep_the_one_before(world: RoundsWorld) -> None:
    world.gains = [2, 0, 2]
    said = world.run(in_rounds())
    assert [name for name, *_ in world.trained] == ["round-01/dpo", "round-02/dpo"]
    assert "round-03/dpo  not needed: round 2 shows no gain over round 1: win rate 50 % [" in said
    found = summary(world)
    assert (found.kept, len(found.rounds), found.rounds[1].without_gain) == (1, 2, 1)
    assert (world.folder / "dpo" / "config.json").read_text() == '{"words": 5}'
    assert not (world.folder / "round-03").exists()
    page = text_of((world.folder / "report.html").read_text())
    assert "Kept: round 1. Round 2 shows no gain over round 1" in page
    assert "round-02/evaluation" in page
    assert "round-03" not in page


def test_rounds_a_judge_that_sees_no_gain_at_all_leaves_the_first_round(world: RoundsWorld) -> None:
    world.gains = [-1, 0, 0]
    world.run(in_rounds())
    assert [name for name, *_ in world.trained] == ["round-01/dpo"]
    assert summary(world).kept == 1
    page = text_of((world.folder / "report.html").read_text())
    assert "Kept: round 1, the first one, because no round shows a gain" in page


def test_rounds_more_patience_runs_only_the_rounds_that_were_not_needed(
    world: RoundsWorld,
) -> None:
    world.gains = [2, 0, 2]
    world.run(in_rounds())
    world.trained.clear()
    read = len(world.judge.read)
    said = world.run(in_rounds(stop={"patience": 2}))
    assert [name for name, *_ in world.trained] == ["round-03/dpo"]
    assert "round-02/dpo  finished before, skipped" in said
    assert summary(world).kept == 3
    # Round 3 alone is read: 10 pairs to train on, 6 against the start and 6 against round 2.
    assert len(world.judge.read) == read + 10 + 6 + 6


def test_rounds_without_a_rule_are_all_run_and_the_last_is_kept(world: RoundsWorld) -> None:
    world.gains = [2, 0, -1]
    world.run(in_rounds(stop=None))
    assert len(world.trained) == 3
    assert summary(world).kept == 3


def test_rounds_that_are_finished_are_skipped(world: RoundsWorld) -> None:
    world.run(in_rounds())
    world.trained.clear()
    served = world.served
    said = world.run(in_rounds())
    assert said.count("finished before, skipped") == len(said.splitlines())
    assert (world.trained, world.served) == ([], served)


def test_rounds_a_higher_count_adds_rounds_where_prompts_were_left(world: RoundsWorld) -> None:
    world.run(in_rounds(count=2, parts=3))
    world.trained.clear()
    world.run(in_rounds(count=3, parts=3))
    assert [name for name, *_ in world.trained] == ["round-03/dpo"]


def test_rounds_read_no_pair_twice(world: RoundsWorld) -> None:
    """Also where policies answer alike, and where a policy goes back to earlier words."""
    world.gains = [2, -2, 2]
    world.run(in_rounds(stop=None))
    assert len(world.judge.read) == len(set(world.judge.read))
    # 30 pairs to train on; 6 held-out prompts: one comparison in round 1, two in rounds 2 and 3.
    assert len(world.judge.read) == 30 + 6 * (1 + 2 + 2)
    files = sorted(world.folder.glob("round-*/*/*.journal.jsonl"))
    last = [f for f in files if "evaluation" not in str(f) or "round-03" in str(f)]
    kept = [entry for file in last for entry in read_jsonl(file, JournalEntry)]
    assert sum(entry.answer.usage.reads for entry in kept) == 2 * len(world.judge.read)


def test_rounds_equal_answers_in_two_rounds_are_not_read_again(world: RoundsWorld) -> None:
    world.lettered = False
    world.gains = [2, 0, -2]
    world.run(in_rounds(stop=None))
    assert len(world.judge.read) == len(set(world.judge.read))
    # Round 2 answers as round 1 did, and round 3 as the start: nothing new to read.
    assert len(world.judge.read) == 30 + 6


def test_rounds_whose_policies_all_answer_as_the_start_ask_no_judge_about_them(
    world: RoundsWorld,
) -> None:
    world.lettered = False
    world.gains = [0, 0, 0]
    world.run(in_rounds(count=2, stop=None))
    assert len(world.judge.read) == 30, "the labels alone"
    assert summary(world).rounds[1].against_before is not None


def test_rounds_identical_responses_are_refused_before_a_judge_is_started(
    world: RoundsWorld,
) -> None:
    world.spread = 0
    with pytest.raises(RunError, match=r"round-01/samples: no pairs to compare: all 10 prompts "
                       r"have identical responses only; sample more responses"):  # fmt: skip
        world.run(in_rounds())
    assert world.served == 0
    assert world.trained == []


def test_rounds_extremes_label_the_best_response_with_the_worst(world: RoundsWorld) -> None:
    samples = {"kind": "sample", "model": "policy", "n": 4}
    world.run(in_rounds({"samples": samples}, count=1, pairs="extremes"))
    labels = read_jsonl(world.folder / "round-01/labels/labels.journal.jsonl", JournalEntry)
    assert world.trained == [("round-01/dpo", "/models/org/policy", 30)]
    # Four responses around a circle: the longest and the shortest are neighbors, and read once.
    assert len(labels) == 4 * 30
    assert len(world.judge.read) == len(set(world.judge.read)) == 4 * 30 + 6


def test_rounds_an_evaluation_is_by_every_judge_and_the_first_decides(world: RoundsWorld) -> None:
    recipe = in_rounds(count=1).model_copy(
        update={"models": a_model(policy="org/policy", judge="org/judge", second="org/second")}
    )
    graph = build_graph(recipe, world.folder)
    judges = [source.text for source in graph["round-01/evaluation"].sources["judges"]]
    assert judges == ["second", "judge"]


def a_model(**models: str) -> dict[str, object]:
    recipe = in_rounds()
    return dict(type(recipe).model_validate({**recipe.model_dump(), "models": models}).models)


def test_rounds_only_one_stage_of_a_round_runs_by_its_name(world: RoundsWorld) -> None:
    with pytest.raises(RunError, match="it takes round-01/dpo-model, which is not finished"):
        world.run(in_rounds(), only=["round-02/samples"])
    world.run(in_rounds(), only=["round-00/answers", "round-01/samples"])
    assert (world.folder / "round-01" / "samples" / "samples.jsonl").is_file()


def test_rounds_dry_run_says_which_rounds_are_not_needed(
    world: RoundsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_check_models", lambda models: None)
    monkeypatch.setattr(running, "_require_settings", lambda stage: None)

    def planned() -> str:
        console = Console(file=StringIO(), width=300)
        running.dry_run(in_rounds(), world.folder, console)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    assert planned().count("would run") == 1 + 3 * 6 + 2
    world.gains = [2, 0, 2]
    world.run(in_rounds())
    assert planned().count("not needed: round 2 shows no gain") == 6
    assert "would run" not in planned()


def test_rounds_report_shows_curves_by_round_and_says_planted(
    world: RoundsWorld, tmp_path: Path
) -> None:
    world.run(in_rounds())
    folder = StageFolder("dpo", "keep_round", world.folder / "dpo")
    page = text_of(render_page(ReportInputs({"recipe": "x"}, (folder,))))
    for curve in ("win rate against the start, by scripted", "win rate against the round before"):
        assert curve in page
    assert "Kept: round 3. All 3 rounds were run." in page
    result = EvaluationResult.load(world.folder / "round-02/evaluation/evaluation.json")
    assert [policy.name for policy in result.policies] == ["start", "round-02/dpo"]


def test_rounds_have_gold_and_the_gap_of_the_reward_model_where_the_judge_is_planted(
    world: RoundsWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = f"planted:{judge_file(tmp_path)}"
    engine = PlantedEngine(PlantedJudge.load(planted))
    asyncio.run(engine.start())
    world.client = LocalJudge(Constitution.load(CONSTITUTION), engine=engine)
    longer = SimpleNamespace(overall_scores=lambda _, texts: [float(len(t)) for t in texts])
    monkeypatch.setattr("rlaif.models.reward_model.RewardModel.load", lambda *given: longer)
    monkeypatch.setattr("rlaif.algorithms.reward.train.train", lambda *given, **named: None)
    reward = {"kind": "reward", "model": "policy", "labels": "labels"}
    recipe = in_rounds({"reward": reward}, count=2, reward="reward", stop=None)
    changed = {"models": {"policy": "org/policy", "judge": planted},
               "constitution": str(CONSTITUTION)}  # fmt: skip
    world.run(type(recipe).model_validate(recipe.model_dump() | changed))
    found = summary(world)
    assert found.planted == "planted:noisy"
    for each in found.rounds:
        assert each.gold is not None
        assert each.wins.reward is not None
        assert each.wins.gold is not None
        assert each.wins.gap is not None
        assert each.wins.reward.value == 1.0, "the reward model likes what is longer"
        assert each.wins.gap.value == pytest.approx(1.0 - each.wins.gold.value)
    page = text_of((world.folder / "report.html").read_text())
    assert "reward wins less gold wins (planted)" in page
    assert "Planted: planted:noisy is a simulated judge" in page
    assert "Gold (planted) of round-02/dpo" in page
