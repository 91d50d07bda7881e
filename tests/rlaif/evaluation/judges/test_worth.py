"""A judge's figures on gold: what is read, what is refused, and for which judge they count."""

import json
from pathlib import Path

import pytest

from rlaif.evaluation.comparison import EvaluatorModel
from rlaif.evaluation.intervals import wilson
from rlaif.evaluation.judges.worth import (
    JudgeWorth,
    WorthError,
    read_worth,
    require_taking_part,
    shipped_worth,
    worth_of,
)
from rlaif.models.catalog import KNOWN

FIGURES = {
    "judge": "j", "gold": "g.jsonl", "n": 36, "accuracy": 0.75, "low": 0.59, "high": 0.86,
    "longer": 0.69,
}  # fmt: skip


def saved(tmp_path, content):
    path = tmp_path / "worth.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("content", [FIGURES, [FIGURES], {"worth": [FIGURES], "results": []}])
def test_a_file_holds_one_judge_or_several(tmp_path, content):
    (worth,) = read_worth(saved(tmp_path, content))
    assert (worth.accuracy, worth.longer_chosen) == (0.75, None)


def test_keys_that_are_not_of_ours_are_ignored(tmp_path):
    (worth,) = read_worth(saved(tmp_path, FIGURES | {"ece": 0.1}))
    assert worth.n == 36


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"accuracy": 1.2}, r"0\.accuracy: .*1\.2"),
        ({"longer": None}, r"0\.longer"),
        ({"low": 0.8}, r"accuracy lies outside of \[low, high\]"),
        ({"n": 0}, r"0\.n"),
        ({"accuracy": float("nan")}, "accuracy"),
    ],
)
def test_a_figure_that_cannot_be_is_named(tmp_path, change, named):
    with pytest.raises(WorthError, match=rf"worth\.json: .*{named}.*expected a judge's figures"):
        read_worth(saved(tmp_path, FIGURES | change))


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(WorthError, match=r"no\.json: cannot be read: No such file"):
        read_worth(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(WorthError, match=r"bad\.json: .*JSON"):
        read_worth(tmp_path / "bad.json")


def test_figures_count_for_the_same_weights_and_constitution_only():
    judge = EvaluatorModel("renamed", "a" * 64, "overall 1.0.0")
    same = JudgeWorth(**FIGURES, weights_sha256="a" * 64, constitution="overall 1.0.0")
    other_rules = same.model_copy(update={"constitution": "hhh 1.0.0"})
    other_weights = same.model_copy(update={"weights_sha256": "b" * 64})
    by_name = JudgeWorth(**FIGURES | {"judge": "renamed"})
    assert worth_of(judge, [other_rules, other_weights]) == ()
    assert worth_of(judge, [other_rules, same]) == (same,)
    assert worth_of(judge, [by_name]) == (by_name,)
    later = same.model_copy(update={"n": 100})
    assert worth_of(judge, [same, later]) == (later,), "of one file of gold, the last given"


def test_chance_and_floor_are_passed_by_the_whole_interval():
    assert JudgeWorth(**FIGURES).above_chance
    assert not JudgeWorth(**FIGURES).above_floor
    assert not JudgeWorth(**FIGURES | {"low": 0.5}).above_chance
    assert JudgeWorth(**FIGURES | {"longer": 0.5}).above_floor


def test_the_shipped_figures_are_of_shipped_models_with_wilsons_interval():
    assert {worth.judge for worth in shipped_worth()} == set(KNOWN)
    for worth in shipped_worth():
        assert (worth.low, worth.high) == pytest.approx(wilson(worth.accuracy, worth.n), abs=1e-3)
        assert len(worth.weights_sha256) == len(worth.gold_sha256) == 64
        assert worth.date
        assert worth.constitution


def test_a_file_needs_figures_of_a_judge_that_evaluates_by_its_weights_or_its_name():
    of_weights = JudgeWorth(
        **FIGURES | {"judge": "renamed", "weights_sha256": "a" * 64, "constitution": "c 1"}
    )
    judge = EvaluatorModel("mine", "a" * 64, "c 1")
    require_taking_part(Path("f"), [JudgeWorth(**FIGURES), of_weights], [judge])
    for other in (
        EvaluatorModel("mine", "b" * 64, "c 1"),
        EvaluatorModel("renamed", "b" * 64, "c 1"),
        EvaluatorModel("mine", "a" * 64, "c 2"),
    ):
        with pytest.raises(WorthError, match="do not take part: renamed, c 1 "):
            require_taking_part(Path("f"), [of_weights], [other])
    unknown = EvaluatorModel("renamed", "", "c 1")
    require_taking_part(Path("f"), [of_weights], [unknown])
