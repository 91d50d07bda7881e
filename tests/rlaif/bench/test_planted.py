"""Planted biases come back out: the slope on length and the agreement of the orders."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from constitution import Constitution
from judge_service.client.sync import JudgeClient
from judge_service.engines.planted import PlantedEngine
from judge_service.planted.file import PlantedJudge
from rlaif.bench.judge import JudgeBench
from rlaif.bench.obedience import inverse_of
from rlaif.bench.result import Answered
from rlaif.gold_sets.length import length_bias
from rlaif.gold_sets.questions import GoldQuestion
from tests.support.service.thread_server import serving_in_thread

RULES = """
name: brief
version: 1.0.0
traits: {brief: {}}
principles:
  - id: short
    trait: brief
    compare: Prefer the reply that has at most two sentences.
    critique: What is too much?
    revise: Shorten it.
"""


def questions(count: int) -> list[GoldQuestion]:
    """Pairs whose right response has two sentences and whose wrong one three, of any length."""
    draw = random.Random(4)

    def sentence() -> str:
        return " ".join(["word"] * draw.randint(1, 20)).capitalize() + "."

    return [
        GoldQuestion.pair(
            f"question {n}", " ".join(sentence() for _ in range(2)),
            " ".join(sentence() for _ in range(3)),
        )
        for n in range(count)
    ]  # fmt: skip


def answers(folder: Path, asked: list[GoldQuestion], inverted: int = 0, **errors: Any) -> Answered:
    rules = folder / "brief.yaml"
    rules.write_text(RULES)
    facts = {"constitution": str(rules), "traits": {"short": "two_sentences"}, **errors}
    (folder / "judge.yaml").write_text(yaml.safe_dump(facts))
    engine = PlantedEngine(PlantedJudge.load(folder / "judge.yaml"))
    with (
        serving_in_thread(engine, constitutions=(str(rules),), allow_inline_constitutions=True) as (
            address,
            _,
        ),
        JudgeClient(address) as client,
    ):
        by = Constitution.load(rules)
        bench = JudgeBench(
            client, folder, by, inverted=inverse_of(by), obedience_questions=inverted
        )
        return bench.answer(asked)


@pytest.mark.parametrize("bias", [0.0, 0.7, -1.2])
def test_the_slope_on_length_is_the_planted_one_beside_knowledge(
    bias: float, tmp_path: Path
) -> None:
    found = length_bias(answers(tmp_path, questions(40), length_bias=bias).answers)
    assert found.slope is not None
    assert found.slope.value == pytest.approx(bias, abs=1e-3)
    assert found.intercept == pytest.approx(4.595, abs=1e-2)  # logit(0.99): it knows the answers


def test_a_judge_of_length_alone_chooses_the_longer_always(tmp_path: Path) -> None:
    found = answers(tmp_path, questions(40), length_bias=1.0, annotators=[0.5])
    bias = length_bias(found.answers)
    assert bias.longer_chosen is not None
    assert bias.longer_chosen.value == 1.0
    assert bias.correlation == pytest.approx(1.0, abs=1e-6)


def test_planted_flips_are_wrong_answers(tmp_path: Path) -> None:
    found = answers(tmp_path, questions(300), flip=0.2)
    wrong = sum(1 - answer.credit for answer in found.answers)
    assert 0.12 < wrong / 300 < 0.28


def test_a_strong_position_bias_leaves_no_agreement_of_the_orders(tmp_path: Path) -> None:
    found = answers(tmp_path, questions(20), position_bias=9.0)
    assert {answer.consistent for answer in found.answers} == {0.0}
    assert {answer.credit for answer in found.answers} == {1.0}


def test_obedience_that_was_not_measured_says_why(tmp_path: Path) -> None:
    # A planted judge knows the principles of its file, and not their inversions.
    found = answers(tmp_path, questions(3), inverted=3)
    assert not found.obedience
    assert found.notes == [
        "obedience was not measured: no pair was judged by both principles (by the inverted ones: "
        "engine_failed 3)"
    ]
