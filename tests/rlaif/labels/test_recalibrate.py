"""Labels under another calibration or reader, from their receipts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge_service.judge.calibration import (
    Calibration,
    CalibrationError,
    Curve,
    Temperature,
    model_sha256,
    write_calibration,
)
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.reader import FittedReader, Lengths
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.feedback.receipts import comparison, parse_receipt
from rlaif.labels.recalibrate import find_calibration, recalibrate
from rlaif.labels.verify import verify_offline
from tests.support.feedback.labeled import CONSTITUTION, judge, labeled, rewrite

WEIGHTS = {CONSTITUTION.digest: CONSTITUTION.trait_weights}.get
TURNS_ROUND = FittedReader((("p0/log_odds", -1.0), ("p2/log_odds", -2.0), ("length", 3.0)), 1.0)


def fitted(curve: Curve | FittedReader) -> Calibration:
    return Calibration(
        CONSTITUTION.name, CONSTITUTION.digest, "fake", model_sha256(judge().engine.identity),
        TEMPLATE_VERSION, "pairwise", 40, curve,
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return labeled(tmp_path / "labels")


def test_a_reader_relabels_every_pair_as_it_would_have_judged_it(file: Path) -> None:
    reader = fitted(TURNS_ROUND)
    labels = read_preferences(file)
    new = [recalibrate(label, reader) for label in labels]
    assert any(a.chosen != b.chosen for a, b in zip(labels, new, strict=True))
    for before, label in zip(labels, new, strict=True):
        receipt, then = parse_receipt(label), parse_receipt(before)
        pair = comparison(label, receipt)
        assert pair == comparison(before, then)
        lengths = Lengths.of(pair.response_a, pair.response_b)
        assert receipt.prob_a == TURNS_ROUND.prob_a(then.votes, lengths)
        assert label.prob_chosen == max(receipt.prob_a, 1 - receipt.prob_a)
        assert (receipt.raw_prob_a, receipt.votes) == (then.raw_prob_a, then.votes)
        assert receipt.provenance == replace(then.provenance, reader=reader.sha256)


def test_a_second_calibration_starts_from_the_reads_again(file: Path) -> None:
    label = read_preferences(file)[0]
    curve = fitted(Temperature(3.0))
    assert recalibrate(recalibrate(label, fitted(TURNS_ROUND)), curve) == recalibrate(label, curve)


def test_recalibrated_labels_are_verified_down_to_the_reader_where_it_is_given(file: Path) -> None:
    reader = fitted(TURNS_ROUND)
    for place in range(12):
        rewrite(file, place, lambda label: recalibrate(label, reader))
    labels = read_preferences(file)
    assert verify_offline(labels, WEIGHTS).passed
    assert verify_offline(labels, WEIGHTS, [reader]).passed
    other = replace(reader, curve=replace(TURNS_ROUND, command="elsewhere"))
    assert verify_offline(labels, WEIGHTS, [other]).passed  # not the one that receipts name

    # A label moved by a hand is found only with the reader.
    def move(label):
        receipt = json.loads(label.receipt)
        prob = 0.5 + (receipt["prob_a"] - 0.5) / 2
        changed = json.dumps(receipt | {"prob_a": prob})
        return label.model_copy(update={"receipt": changed, "prob_chosen": max(prob, 1 - prob)})

    rewrite(file, 3, move)
    labels = read_preferences(file)
    assert verify_offline(labels, WEIGHTS).passed
    found = verify_offline(labels, WEIGHTS, [reader])
    assert found.wrong == 1
    assert "'q3': P(A), calibrated, is" in found.examples[0]


def test_one_for_another_setup_is_refused_and_says_what_differs(file: Path, tmp_path: Path) -> None:
    label = read_preferences(file)[0]
    other = replace(fitted(TURNS_ROUND), model="big", model_sha256="e" * 64)
    with pytest.raises(CalibrationError, match=r"another setup: model big eeeeeeeeeeee, not fake"):
        recalibrate(label, other)
    store = tmp_path / "small.calibration.json"
    write_calibration(store, other)
    with pytest.raises(CalibrationError, match=r"no calibration for the setup .*model big"):
        find_calibration(store, label)
    write_calibration(store, fitted(TURNS_ROUND))
    assert find_calibration(store, label) == fitted(TURNS_ROUND)


def test_the_command_writes_a_new_folder_and_says_how_many_labels_turned(
    file: Path, tmp_path: Path
) -> None:
    store, out = tmp_path / "small.calibration.json", tmp_path / "new"
    write_calibration(store, fitted(TURNS_ROUND))
    command = ["labels", "recalibrate", str(file), "--calibration", str(store), "--out", str(out)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    before, after = read_preferences(file), read_preferences(out / "preferences.parquet")
    turned = sum(a.chosen != b.chosen for a, b in zip(before, after, strict=True))
    assert f"{turned} choose the other response now" in " ".join(shown.output.split())
    assert turned > 0
    again = CliRunner().invoke(app, command)
    assert "exists already; choose another folder" in str(again.exception)
    verified = CliRunner().invoke(
        app, ["labels", "verify", str(out), "--offline", "--calibration", str(store)]
    )
    assert verified.exit_code == 0, verified.output
    shown = CliRunner().invoke(app, ["labels", "show", str(out), "q0"])
    assert f"reader {fitted(TURNS_ROUND).sha256}" in " ".join(shown.output.split())
