"""The file of a planted judge: what it says, and every mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judge_service.planted.file import PREFIX, PlantedError, PlantedJudge, planted_file
from judge_service.settings import ServerSettings, SettingsError
from rlaif.evaluation.comparison import PLANTED
from tests.support.planted.judges import ROOT, TRAITS, judge_file, planted_judge


def test_a_file_names_its_judge_planted(tmp_path: Path) -> None:
    judge = PlantedJudge.load(f"planted:{judge_file(tmp_path, 'easy')}")
    assert judge.name == "planted:easy"
    assert judge.errors.annotators == (1.0,)


def test_the_shipped_example_loads_with_its_constitution_beside_it() -> None:
    judge = PlantedJudge.load(ROOT / "benchmarks" / "planted" / "judge.yaml")
    assert judge.gold.constitution.name == "planted_traits"
    assert sum(judge.errors.annotators) / 2 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"flip": 1.5}, r"noisy.yaml:\d+:\d+: flip: .*less than or equal to 1.*1.5"),
        ({"flp": 0.1}, r"flp: unknown key; did you mean 'flip'"),
        ({"annotators": [0.4]}, r"annotators\.0: .*greater than or equal to 0.5"),
        ({"annotators": []}, "annotators: .*at least 1"),
        ({"votes": 2}, "votes is 2, and there are 1 annotators; lower it"),
        (
            {"traits": {"short": "to_sentences"}},
            "unknown rule 'to_sentences' of short; .*'two_sent",
        ),
        ({"traits": {**TRAITS, "shrt": "two_sentences"}}, r"traits\.shrt: .*no such principle"),
        ({"traits": {"short": "two_sentences"}}, "principle polite .* has no gold rule; add"),
        ({"constitution": "hh"}, "unknown constitution 'hh'"),
        ({"seed": "x"}, "seed: .*integer"),
        ({"length_bias": float("nan")}, "length_bias"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    path = judge_file(tmp_path, **changes)
    with pytest.raises(ValueError, match=problem):
        PlantedJudge.load(path)


def test_a_file_that_is_missing_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlantedError, match=r"gone\.yaml: cannot be read: No such file"):
        PlantedJudge.load(tmp_path / "gone.yaml")
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(PlantedError, match="expected a mapping with the keys seed, constitution"):
        PlantedJudge.load(path)
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(PlantedError, match="seed"):
        PlantedJudge.load(path)


@pytest.mark.parametrize("key", ["flip", "length_bias", "position_bias"])
def test_the_digest_covers_every_setting(tmp_path: Path, key: str) -> None:
    assert planted_judge(tmp_path).digest != planted_judge(tmp_path, **{key: 0.25}).digest


def test_the_digest_ignores_name_and_layout(tmp_path: Path) -> None:
    same = PlantedJudge.load(judge_file(tmp_path, "other", flip=0.0))
    assert same.digest == planted_judge(tmp_path).digest


def test_only_names_that_begin_with_planted_are_files_of_planted_judges() -> None:
    assert planted_file("planted:a/b.yaml") == Path("a/b.yaml")
    assert planted_file("models/planted") is None
    assert PREFIX == PLANTED, "reports recognize planted judges by their name"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model": "planted:a.yaml"}, "engine vllm does not go with model planted:a.yaml"),
        ({"model": "a/b", "engine": "planted"}, "engine planted does not go with model a/b"),
        (
            {"model": "planted:a.yaml", "engine": "planted", "kv_cache_gib": 1},
            "'kv_cache_gib' does nothing with engine planted: leave it out",
        ),
    ],
)
def test_the_engine_and_the_model_of_a_server_must_agree(
    values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        ServerSettings(**values)
