"""Verdicts by their rule, and results beside floors."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.bench.result import (
    RESULTS,
    Answered,
    BenchCost,
    BenchResult,
    FloorFigure,
    as_json,
    result,
    verdict,
)
from rlaif.bench.worth import worth
from rlaif.evaluation.intervals import Estimate
from rlaif.evaluation.judges.worth import read_worth
from rlaif.gold_sets.answers import GoldAnswer, from_scores
from rlaif.gold_sets.floors import longer
from rlaif.gold_sets.questions import GoldQuestion, GoldSet
from tests.rlaif.gold_sets.test_floors import of_four, planted
from tests.support.feedback.builders import MODEL

COST = BenchCost(10, 0, 100, 1.0)


def floor(name: str, value: float, low: float | None) -> FloorFigure:
    return FloorFigure(name, value, {}, Estimate(0.1, low, None if low is None else 0.3, 50))


@pytest.mark.parametrize(
    ("lows", "said"),
    [
        ((-0.01, -0.2, -0.2, -0.2), "not above chance"),
        ((None, 0.1, 0.1, 0.1), "not above chance"),
        ((0.1, -0.01, 0.1, 0.1), "not above the longer response (0.60): treat its labels as"),
        ((0.1, 0.0, 0.1, 0.1), "not above the longer response"),
        ((0.1, 0.1, -0.01, 0.1), "not above the floor surface (0.70): its labels add nothing"),
        ((0.1, 0.1, 0.1, -0.01), "not above the floor words (0.65): its labels add nothing"),
        ((0.1, 0.1, 0.1, 0.1), "above every floor (best: surface, 0.70)"),
    ],
)
def test_the_verdict_follows_its_rule(lows: tuple[float | None, ...], said: str) -> None:
    names = (("random", 0.5), ("longer", 0.6), ("surface", 0.7), ("words", 0.65))
    floors = [floor(name, value, low) for (name, value), low in zip(names, lows, strict=True)]
    assert verdict(floors).startswith(said)


def measured(answers: list[GoldAnswer], questions: list[GoldQuestion]) -> BenchResult:
    gold = GoldSet(Path("rows.jsonl"), questions[0].source, tuple(questions))
    found = result(gold, questions, Answered(answers, Counter(), COST), "a judge")
    assert found is not None
    return found


def test_a_judge_that_is_right_is_above_every_floor() -> None:
    questions = planted(80, "yes", "yes")
    found = measured([GoldAnswer(q, (2.0,)) for q in questions], questions)
    assert found.overall.value == 1.0
    assert found.verdict.startswith("above every floor")
    assert [floor.name for floor in found.floors] == ["random", "longer", "surface", "words"]
    assert found.floors[0].difference.value == 0.5


def test_a_judge_of_length_is_not_above_the_longer_response() -> None:
    questions = planted(80, "yes and a good deal longer too", "no")
    found = measured(longer(questions), questions)
    assert found.overall.value > 0.9
    assert found.verdict.startswith("not above the longer response")
    longest = next(floor for floor in found.floors if floor.name == "longer")
    assert (longest.value, longest.difference.value) == (found.overall.value, 0.0)
    assert found.length.longer_chosen is not None
    assert found.length.longer_chosen.value == 1.0


def test_floors_are_compared_on_the_questions_that_were_answered() -> None:
    questions = [
        GoldQuestion.pair(f"p{n}", "long text" if n % 2 else "a", "middle") for n in range(8)
    ]
    answers = [GoldAnswer(question, (1.0,)) for question in questions[1::2]]
    found = measured(answers, questions)
    assert {floor.name: floor.value for floor in found.floors} == {"random": 0.5, "longer": 1.0}


def test_the_floors_of_ties_are_scores_and_not_accuracies() -> None:
    questions = [of_four(1, "Ties", "ref:1"), of_four(2, "Ties", "tied:1"), of_four(1, "Math", "m")]
    found = measured([from_scores(q, [4, 3, 2, 1]) for q in questions], questions)
    random = found.floors[0]
    assert random.groups["Math"] == 0.25
    assert random.groups["Ties"] == pytest.approx(0.3 / 6 + 0.3 / 4, abs=0.06)
    assert random.value == pytest.approx((random.groups["Math"] + random.groups["Ties"]) / 2)


def test_no_answer_is_no_result() -> None:
    questions = planted(4, "yes", "no")
    gold = GoldSet(Path("rows.jsonl"), "pairs", tuple(questions))
    assert result(gold, questions, Answered([], Counter(too_long=4), COST), "a judge") is None


def test_results_are_json_and_can_be_read_again() -> None:
    questions = planted(80, "yes", "no")
    found = measured([GoldAnswer(q, (2.0,), ((0.9, 0.8),)) for q in questions], questions)
    again = RESULTS.validate_python(json.loads(json.dumps(as_json([found])["results"])))
    assert again == (found,)
    assert found.consistent is not None
    assert found.consistent.value == 1.0


def test_a_bench_is_a_file_of_what_the_judge_is_worth(tmp_path: Path) -> None:
    questions = planted(80, "yes and more", "no")
    found = measured([GoldAnswer(q, (2.0,)) for q in questions], questions)
    (tmp_path / "rows.jsonl").write_text("{}")
    known = worth([replace(found, file=str(tmp_path / "rows.jsonl"))], MODEL, "overall 1.0.0")
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(as_json([found], known)))
    (read,) = read_worth(path)
    assert (read.judge, read.weights_sha256, read.constitution) == (
        "fake",
        "0" * 64,
        "overall 1.0.0",
    )
    assert (read.gold, read.n, read.accuracy) == ("rows.jsonl", 80, 1.0)
    assert read.longer == next(f.value for f in found.floors if f.name == "longer")
    assert read.above_chance
    assert found.length.longer_chosen is not None
    assert read.longer_chosen == found.length.longer_chosen.value


def test_figures_with_ties_below_0_are_worth_0(tmp_path: Path) -> None:
    questions = [of_four(1, "Ties", f"ref:{n}") for n in range(3)]
    questions += [of_four(2, "Ties", f"tied:{n}") for n in range(3)]
    found = measured([from_scores(q, [1, 2, 3, 4]) for q in questions], questions)
    assert found.overall.value < 0
    assert found.overall.low is not None
    assert found.overall.low <= found.overall.value
    (tmp_path / "rows.jsonl").write_text("{}")
    (known,) = worth([replace(found, file=str(tmp_path / "rows.jsonl"))], MODEL, "overall 1.0.0")
    assert (known.accuracy, known.low) == (0.0, 0.0)


def test_length_is_measured_without_ties_whose_scores_have_another_unit() -> None:
    pair = replace(of_four(1, "Math"), responses=("aa", "b", "c", "d"))
    ties = replace(of_four(2, "Ties", "tied:1"), responses=("a", "b", "cccc", "dddd"))
    answers = [GoldAnswer(pair, (1.0,) * 3), from_scores(ties, [2, 2, 1, 1])]
    found = measured(answers, [pair, ties])
    assert found.length.longer_chosen is not None
    assert found.length.longer_chosen.value == 1.0


def test_a_coin_gets_half_of_every_section() -> None:
    questions = [
        replace(q, source="reward_bench", group="math-prm") for q in planted(12, "yes", "no")
    ]
    found = measured([GoldAnswer(q, (2.0,)) for q in questions], questions)
    assert found.floors[0].groups == {"math-prm": 0.5, "Reasoning": 0.5}
