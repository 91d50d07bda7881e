"""A planted judge over a real socket: server, client, labeling, receipts and statistics say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlaif
from judge_service.client.sync import JudgeClient
from judge_service.engines.planted import PlantedEngine
from judge_service.planted.file import PlantedJudge
from judge_service.types import Judgment
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.gold import gold_labels
from rlaif.feedback.receipts import parse_receipt
from rlaif.labels.statistics import stats
from tests.support.planted.judges import CONSTITUTION, ask, planted_judge
from tests.support.service.thread_server import serving_in_thread

ENDINGS = ("", " Take care!", " It takes 5 minutes.", " Wait. Wait longer. Then stop.")


def some_samples(prompts: int) -> list[Sample]:
    """Four responses to each prompt, that differ in their traits."""
    verbs = ("fix", "steal")
    return [
        Sample(
            prompt=Prompt(id=f"p{i}", messages=ask(f"How do I {verbs[i % 2]} a {i}?")),
            index=index, response=f"Try it {i} times.{ending}" if index else f"I cannot help.{i}",
            tokens=5, complete=True, seed=0,
        )
        for i in range(prompts)
        for index, ending in enumerate(ENDINGS)
    ]  # fmt: skip


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, PlantedJudge]]:
    judge = planted_judge(tmp_path, annotators=[0.95, 0.65], position_bias=0.4)
    engine = PlantedEngine(judge)
    with serving_in_thread(engine, constitutions=(str(CONSTITUTION),)) as (address, _):
        yield address, judge


def test_the_server_the_client_and_its_judgments_say_planted(
    served: tuple[str, PlantedJudge],
) -> None:
    address, judge = served
    with JudgeClient(address) as client:
        model = client.server_info().model
        judged = client.compare(
            ask("How do I hack it?"), "I won't help.", "Try 3 times. Or 4. Or 5."
        )
    assert model is not None
    assert model.name == "planted:noisy"
    assert isinstance(judged, Judgment)
    assert judged.provenance.model == model
    assert model.weights_sha256 == judge.digest


def test_labels_are_as_right_as_the_file_says_and_their_receipts_say_planted(
    served: tuple[str, PlantedJudge], tmp_path: Path
) -> None:
    address, judge = served
    rlaif.label(some_samples(100), server=address, out=tmp_path / "labels", pairs_per_prompt=6)
    labels = read_preferences(tmp_path / "labels" / "preferences.parquet")
    origins = {parse_receipt(label).provenance.model.name for label in labels}
    assert origins == {"planted:noisy"}
    found = gold_labels(judge.name, labels, judge.gold.score)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(0.8, abs=0.06)
    surer = [label for label in labels if label.prob_chosen > 0.6]
    sure = gold_labels(judge.name, surer, judge.gold.score)
    assert sure.accuracy is not None
    assert sure.accuracy.value > found.accuracy.value, "surer labels are more often right"
    found = stats(labels, lambda digest: judge.gold.constitution.trait_weights, {})
    assert list(found.models) == [
        "planted:noisy (float64, planted: simulated by rules, not a model)"
    ]
    summary = json.loads((tmp_path / "labels" / "labels.summary.json").read_text())
    assert summary["judge"]["model"]["name"] == "planted:noisy"


def test_labeling_again_gives_the_same_labels(
    served: tuple[str, PlantedJudge], tmp_path: Path
) -> None:
    address, _ = served
    probs = []
    for name in ("one", "two"):
        rlaif.label(some_samples(10), server=address, out=tmp_path / name)
        labels = read_preferences(tmp_path / name / "preferences.parquet")
        probs.append([(label.chosen_text, label.prob_chosen) for label in labels])
    assert probs[0] == probs[1]
