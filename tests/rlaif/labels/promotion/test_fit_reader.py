"""Readers fitted to gold pairs: what they find, what they leave alone, and what is refused."""

import random

import pytest

from judge_service.judge.calibration import CalibrationError
from rlaif.labels.promotion.fit_reader import GoldReads, fit_reader


def rows(n: int, right: float = 0.8, seed: int = 0) -> list[GoldReads]:
    """A feature that says which is right, most of the time, and one that is noise."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        a_is_right = rng.random() < 0.5
        says_a = a_is_right == (rng.random() < right)
        features = {"p0/log_odds": 1.0 if says_a else -1.0, "length": rng.gauss(0.0, 0.1)}
        made.append(GoldReads(f"prompt {i}", features, float(a_is_right)))
    return made


def test_the_reader_finds_the_feature_that_says_which_is_right():
    reader = fit_reader(rows(400), command="by a test")
    weights = dict(reader.weights)
    # log(0.8 / 0.2) = 1.39, less what the ridge and chance take.
    assert weights["p0/log_odds"] == pytest.approx(1.39, abs=0.25)
    assert abs(weights["length"]) * 0.1 < 0.25
    assert reader.command == "by a test"


def test_mirrored_pairs_give_the_same_reader_but_for_rounding():
    one = rows(60)
    mirrored = [
        GoldReads(row.prompt, {name: -x for name, x in row.features.items()}, 1.0 - row.gold)
        for row in one
    ]
    assert dict(fit_reader(one).weights) == pytest.approx(dict(fit_reader(mirrored).weights))


def test_a_prompt_counts_once_however_many_pairs_it_has():
    one = rows(40)
    repeated = [row for row in one for _ in range(3)]
    assert dict(fit_reader(repeated).weights) == pytest.approx(dict(fit_reader(one).weights))


def test_differences_as_small_as_rounding_get_no_say():
    rng = random.Random(0)
    noisy = [
        GoldReads(
            row.prompt,
            {**row.features, "p0/mass": rng.gauss(0.0, 1e-3), "p1/mass": rng.gauss(0.0, 1e-15)},
            row.gold,
        )
        for row in rows(100)
    ]
    with_noise, without = dict(fit_reader(noisy).weights), dict(fit_reader(rows(100)).weights)
    assert with_noise.keys() == {"p0/log_odds", "length", "p0/mass"}
    assert abs(with_noise["p0/mass"]) * 1e-3 < 0.01
    assert with_noise["length"] == pytest.approx(without["length"], abs=0.01)


def test_too_few_prompts_and_features_that_never_vary_are_refused():
    with pytest.raises(CalibrationError, match="too few prompts to fit a reader: 19"):
        fit_reader([*rows(19), *rows(19)])
    flat = [GoldReads(f"{i}", {"length": 0.0}, 1.0) for i in range(30)]
    with pytest.raises(CalibrationError, match="no feature differs from 0"):
        fit_reader(flat)
