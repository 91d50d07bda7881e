"""Calibration: curves against closed forms and brute force; files, intact and broken."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Calibrations,
    Curve,
    Isotonic,
    Temperature,
    calibration_file,
    calibration_files,
    fit_isotonic,
    fit_temperature,
    model_sha256,
    pool_adjacent_violators,
    read_calibrations,
    write_calibration,
)
from judge_service.judge.calibration_metrics import (
    ReliabilityBin,
    accuracy,
    brier,
    chance_ece,
    ece,
    equal_mass_bins,
    equal_width_bins,
    measure,
    nll,
)
from judge_service.judge.reader import Lengths
from judge_service.types import ModelIdentity

probabilities = st.floats(0.0, 1.0)
samples = st.lists(probabilities, min_size=1, max_size=40)
curves = st.builds(Temperature, st.floats(0.05, 100.0)) | st.builds(fit_isotonic, samples)

MODEL = ModelIdentity("tiny", "a" * 64, "b" * 64, "float32", "none")


def calibration(curve: Curve = Temperature(2.0), **values: object) -> Calibration:  # noqa: B008
    base = Calibration(
        constitution="hhh",
        constitution_sha256="c" * 64,
        model="tiny",
        model_sha256=model_sha256(MODEL),
        template_version="pair/1",
        protocol="pairwise",
        pairs=100,
        curve=curve,
    )
    return dataclasses.replace(base, **values)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────

FIVE = [0.9, 0.9, 0.1, 0.6, 0.4]
"""At confidence 0.9 right, right, wrong; at 0.6 right, wrong."""


def test_the_metrics_are_those_worked_by_hand() -> None:
    assert accuracy(FIVE) == pytest.approx(3 / 5)
    # 0.1² + 0.1² + 0.9² + 0.4² + 0.6² = 0.01 + 0.01 + 0.81 + 0.16 + 0.36 = 1.35
    assert brier(FIVE) == pytest.approx(1.35 / 5)
    # -ln: 2 · 0.105361 + 2.302585 + 0.510826 + 0.916291 = 3.940423
    assert nll(FIVE) == pytest.approx(3.940423 / 5, abs=1e-6)
    # bin at 0.9: |2/3 - 0.9| · 3 = 0.7; bin at 0.6: |1/2 - 0.6| · 2 = 0.2
    assert ece(equal_width_bins(FIVE)) == pytest.approx((0.7 + 0.2) / 5)
    metrics = measure(FIVE)
    assert (metrics.accuracy, metrics.brier) == (accuracy(FIVE), brier(FIVE))
    assert (metrics.nll, metrics.ece) == (nll(FIVE), ece(equal_width_bins(FIVE)))


def test_bins_of_equal_mass_differ_from_bins_of_equal_width() -> None:
    probs = [0.6, 0.38, 0.64, 0.9]  # confidence 0.6, 0.62 (wrong), 0.64, 0.9
    # halves by number: |1/2 - 0.61| · 2 + |1 - 0.77| · 2 = 0.22 + 0.46
    assert ece(equal_mass_bins(probs, 2)) == pytest.approx(0.68 / 4)
    # halves by width: |2/3 - 0.62| · 3 + |1 - 0.9| · 1 = 0.14 + 0.1
    assert ece(equal_width_bins(probs, 2)) == pytest.approx(0.24 / 4)


def test_a_bin_holds_its_upper_edge_and_one_half_lies_in_the_first() -> None:
    assert equal_width_bins([0.5, 0.55], 10) == (ReliabilityBin(2, pytest.approx(0.525), 0.75),)
    assert [b.n for b in equal_width_bins([0.55, 0.5500001, 1.0, 0.0], 10)] == [1, 1, 2]


def test_a_tie_is_half_right_in_every_count() -> None:
    assert accuracy([0.5]) == 0.5
    assert ece(equal_width_bins([0.5, 0.5])) == 0.0


def test_the_nll_of_a_certain_mistake_is_finite() -> None:
    assert nll([0.0]) == pytest.approx(-math.log(1e-6))


@given(samples, st.integers(1, 12))
def test_bins_hold_every_pair_once_in_whatever_order(probs: list[float], bins: int) -> None:
    for make_bins in (equal_width_bins, equal_mass_bins):
        binned = make_bins(probs, bins)
        assert sum(b.n for b in binned) == len(probs)
        assert len(binned) <= bins
        assert 0.0 <= ece(binned) <= 1.0
        assert ece(make_bins(probs[::-1], bins)) == pytest.approx(ece(binned))


def test_the_ece_of_chance_is_that_of_a_coin_worked_by_hand() -> None:
    # Two pairs at 0.75: right with 0.75 each. |acc - 0.75| is 0.25, 0.25, 0.75 with probability
    # 9/16, 6/16, 1/16: mean 4.5/16
    assert chance_ece([0.75, 0.25], seed=0, draws=4000) == pytest.approx(4.5 / 16, abs=0.01)
    assert chance_ece([1.0, 0.0], seed=0) == 0.0


# ── curves ───────────────────────────────────────────────────────────────────────────────────


@given(curves, probabilities)
def test_swapping_the_responses_gives_one_minus_p_to_the_last_bit(curve: Curve, p: float) -> None:
    assert curve.apply(1.0 - p) == 1.0 - curve.apply(p)
    assert curve.apply(0.5) == 0.5


@given(curves, probabilities, probabilities)
def test_a_curve_never_falls_and_stays_within_zero_and_one(
    curve: Curve, p: float, q: float
) -> None:
    low, high = curve.apply(min(p, q)), curve.apply(max(p, q))
    assert 0.0 < low <= high < 1.0


@given(curves, probabilities)
def test_a_curve_never_flips_a_verdict(curve: Curve, p: float) -> None:
    assert (p - 0.5) * (curve.apply(p) - 0.5) >= 0.0


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_temperature_of_one_changes_nothing(p: float) -> None:
    assert Temperature(1.0).apply(p) == pytest.approx(p, rel=1e-9)


def test_the_temperature_of_three_right_in_four_at_nine_to_one_is_two() -> None:
    # sigmoid(ln 9 / T) = 3/4  <=>  ln 9 / T = ln 3
    fitted = fit_temperature([0.9] * 75 + [0.1] * 25)
    assert fitted.temperature == pytest.approx(2.0, rel=1e-6)
    assert fitted.apply(0.9) == pytest.approx(0.75)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered_from_drawn_outcomes(true: float) -> None:
    draw = random.Random(1)
    probs = []
    for _ in range(6000):
        logit = draw.gauss(0.0, 2.0)
        a_is_better = draw.random() < 1 / (1 + math.exp(-logit / true))
        p = 1 / (1 + math.exp(-logit))
        probs.append(p if a_is_better else 1.0 - p)
    assert fit_temperature(probs).temperature == pytest.approx(true, rel=0.1)


@given(samples)
def test_no_other_temperature_has_a_lower_nll(probs: list[float]) -> None:
    best = nll([fit_temperature(probs).apply(q) for q in probs])
    for log_t in range(-12, 19):
        other = Temperature(min(max(math.exp(log_t / 4), 0.05), 100.0))
        assert best <= nll([other.apply(q) for q in probs]) + 1e-6


def test_a_judge_that_is_always_right_or_always_wrong_gets_a_bound() -> None:
    assert fit_temperature([0.7] * 9).temperature == 0.05
    assert fit_temperature([0.3] * 9).temperature == 100.0
    assert fit_isotonic([0.3] * 9).apply(0.9) == 0.5


def test_the_isotonic_curve_is_the_one_worked_by_hand() -> None:
    # 6 of 10 right at 0.6: (6 + 1) / 12; 8 of 10 at 0.9: (8 + 1) / 12
    curve = fit_isotonic([0.6] * 6 + [0.4] * 4 + [0.9] * 8 + [0.1] * 2)
    flat = [number for knot in curve.knots for number in knot]
    assert flat == pytest.approx([0.5, 0.5, 0.6, 7 / 12, 0.9, 9 / 12])
    assert curve.apply(0.75) == pytest.approx((7 / 12 + 9 / 12) / 2)
    assert curve.apply(0.55) == pytest.approx((1 / 2 + 7 / 12) / 2)
    assert (curve.apply(0.99), curve.apply(0.05)) == pytest.approx((0.75, 0.25))


def test_a_small_sure_block_is_pooled_when_laplace_puts_it_out_of_order() -> None:
    # 18 of 20 right at 0.8 is 19/22; the one right pair at 0.95 is 2/3, lower, so they are one:
    # (20 · 19/22 + 2/3) / 21
    curve = fit_isotonic([0.8] * 18 + [0.2] * 2 + [0.95])
    assert curve.knots[-1][1] == pytest.approx((20 * 19 / 22 + 2 / 3) / 21)
    assert len(curve.knots) == 2


grid = st.integers(0, 8).map(lambda k: k / 8)


@given(st.lists(st.tuples(grid, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8))
def test_pooling_finds_the_monotone_least_squares_fit(points: list[tuple[float, float]]) -> None:
    """The oracle tries every way to cut the places into runs of rising means."""
    places = sorted({x for x, _ in points})
    cuts = itertools.product((False, True), repeat=len(places) - 1)
    losses = [_loss_of_runs(points, places, cut) for cut in cuts]
    best = min(loss for loss in losses if loss is not None)

    blocks = pool_adjacent_violators(points)
    assert [b.y for b in blocks] == sorted({b.y for b in blocks})
    assert sum(b.n for b in blocks) == len(points)
    loss, rest = 0.0, sorted(points)
    for block in blocks:
        loss += sum((y - block.y) ** 2 for _, y in rest[: int(block.n)])
        rest = rest[int(block.n) :]
    assert loss == pytest.approx(best, abs=1e-9)


def _loss_of_runs(
    points: list[tuple[float, float]], places: list[float], cut: tuple[bool, ...]
) -> float | None:
    runs = [[places[0]]]
    for place, new in zip(places[1:], cut, strict=True):
        if new:
            runs.append([])
        runs[-1].append(place)
    ys = [[y for x, y in points if x in run] for run in runs]
    means = [sum(run) / len(run) for run in ys]
    if any(later < earlier for earlier, later in itertools.pairwise(means)):
        return None
    return sum((y - mean) ** 2 for run, mean in zip(ys, means, strict=True) for y in run)


@given(st.lists(st.integers(0, 64).map(lambda k: k / 64), min_size=1, max_size=30))
def test_the_upper_half_is_fitted_as_the_whole_mirrored_sample_would_be(probs: list[float]) -> None:
    mirrored = [(q, 1.0) for q in probs] + [(1.0 - q, 0.0) for q in probs]
    whole = [b for b in pool_adjacent_violators(mirrored) if b.y > 0.5]
    upper = pool_adjacent_violators(
        (max(q, 1 - q), 0.5 if q == 0.5 else float(q > 0.5)) for q in probs
    )
    assert whole == [b for b in upper if b.y > 0.5]


# ── lookup and files ─────────────────────────────────────────────────────────────────────────


def test_lookup_returns_a_calibration_only_for_what_it_was_fitted_for() -> None:
    known = Calibrations([calibration()])
    assert known.find("c" * 64, MODEL, "pair/1", "pairwise") == calibration()
    renamed = dataclasses.replace(MODEL, name="a folder", engine="another")
    assert known.find("c" * 64, renamed, "pair/1", "pairwise") is not None
    quantized = dataclasses.replace(MODEL, dtype="int8")
    assert known.find("d" * 64, MODEL, "pair/1", "pairwise") is None
    assert known.find("c" * 64, quantized, "pair/1", "pairwise") is None
    assert known.find("c" * 64, MODEL, "pair/2", "pairwise") is None
    assert known.find("c" * 64, MODEL, "pair/1", "pointwise") is None


def test_the_digest_differs_between_curves() -> None:
    assert calibration().sha256 == calibration().sha256
    assert len({calibration(Temperature(t)).sha256 for t in (1.0, 2.0, 3.0)}) == 3
    assert calibration().apply(0.9, {}, (), Lengths(1, 1))[0] == pytest.approx(0.75)


@given(curves)
def test_a_calibration_comes_back_from_its_file_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, curve: Curve
) -> None:
    path = tmp_path_factory.mktemp("kept") / "x.calibration.json"
    write_calibration(path, calibration(curve))
    assert read_calibrations(path) == [calibration(curve)]
    assert read_calibrations(path)[0].sha256 == calibration(curve).sha256


def test_writing_replaces_the_calibration_of_the_same_key_and_keeps_the_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new" / "x.calibration.json"
    other = calibration(protocol="pointwise")
    for written in (calibration(), other, calibration(Temperature(3.0))):
        write_calibration(path, written)
    assert read_calibrations(path) == [other, calibration(Temperature(3.0))]
    assert list(path.parent.iterdir()) == [path]


def test_the_earlier_file_wins(tmp_path: Path) -> None:
    mine, shipped = tmp_path / "mine.json", tmp_path / "shipped.json"
    write_calibration(mine, calibration(Temperature(5.0)))
    write_calibration(shipped, calibration(Temperature(1.0)))
    write_calibration(shipped, calibration(template_version="pair/2"))
    loaded = Calibrations.load([mine, shipped])
    assert len(loaded) == 2
    assert loaded.find("c" * 64, MODEL, "pair/1", "pairwise") == calibration(Temperature(5.0))


def test_the_file_is_beside_a_yaml_file_and_in_the_users_folder_for_a_name(
    tmp_path: Path,
) -> None:
    user = tmp_path / "user"
    path = tmp_path / "shop.yaml"
    assert calibration_file(str(path), user) == tmp_path / "shop.calibration.json"
    assert calibration_file("hhh", user) == user / "hhh.calibration.json"
    assert calibration_files(str(path), user) == ()
    write_calibration(calibration_file(str(path), user), calibration())
    write_calibration(calibration_file("hhh", user), calibration())
    assert calibration_files(str(path), user) == (tmp_path / "shop.calibration.json",)
    assert calibration_files("hhh", user)[0] == user / "hhh.calibration.json"
    assert user / "hhh.calibration.json" not in calibration_files("hhh", None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("curve", {"kind": "temperature", "temperature": 0.0}, "greater than or equal to 0.05"),
        ("curve", {"kind": "temperature", "temperature": math.nan}, "temperature"),
        ("curve", {"kind": "spline", "knots": []}, "curve"),
        ("curve", {"kind": "isotonic", "knots": []}, "the first knot must be [0.5, 0.5]"),
        ("curve", {"kind": "isotonic", "knots": [[0.5, 0.5], [0.6, 0.4]]}, "knots must rise"),
        ("curve", {"kind": "isotonic", "knots": [[0.5, 0.5], [0.9, 1.0]]}, "below [1, 1]"),
        ("constitution_sha256", "c", "constitution_sha256"),
        ("pairs", "many", "pairs"),
    ],
)
def test_a_broken_entry_raises_an_error_with_file_field_and_remedy(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = tmp_path / "x.calibration.json"
    write_calibration(path, calibration())
    write_calibration(path, calibration(protocol="other"))
    entries = json.loads(path.read_text())
    entries[1][field] = value
    path.write_text(json.dumps(entries))
    with pytest.raises(CalibrationError) as raised:
        Calibrations.load([path])
    for part in (str(path), "entry 2", field, message, "rlaif judge calibrate"):
        assert part in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", '{"temperature": 2}', "3"])
def test_a_file_without_a_list_of_calibrations_raises_an_error_and_is_not_overwritten(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "x.calibration.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="not a list of calibrations") as raised:
        Calibrations.load([path])
    assert "deleting the file" in str(raised.value)
    with pytest.raises(CalibrationError):
        write_calibration(path, calibration())
    assert path.read_text() == text, "what was there is not overwritten"


def test_a_file_that_cannot_be_written_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be written"):
        write_calibration(tmp_path / "file" / "x.calibration.json", calibration())


def test_a_curve_without_a_knot_above_one_half_is_one_half_everywhere() -> None:
    assert Isotonic(((0.5, 0.5),)).apply(1.0) == 0.5
