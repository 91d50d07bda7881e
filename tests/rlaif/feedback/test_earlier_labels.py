"""Labels that another judge made are refused or kept, and never overwritten without a word."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from judge_service.server_info import FittedCalibration
from judge_service.types import JudgeOptions, Order
from rlaif.cli.main import app
from rlaif.data.datasets import read_preferences
from rlaif.data.records import Prompt, Sample, write_jsonl, write_preferences
from rlaif.feedback.earlier_labels import Earlier, EarlierLabelsError
from rlaif.feedback.labeler import LabelingError, label
from rlaif.feedback.receipts import parse_receipt
from tests.rlaif.feedback.test_labeler import PAIRS, comparison
from tests.support.feedback.scripted_judge import MODEL, ScriptedJudge

OTHER = JudgeOptions(seed=1)


@pytest.fixture
def folder(tmp_path):
    label(PAIRS, ScriptedJudge(), tmp_path)
    return tmp_path


def another_judge():
    judge = ScriptedJudge()
    judge.sha256 = "e" * 64
    return judge


def by(file):
    return parse_receipt(read_preferences(file)[0]).provenance.constitution_sha256


def kept(folder):
    return list(folder.glob("preferences.*.parquet"))


# ── refused ──────────────────────────────────────────────────────────────────────────────────


def test_another_constitution_is_refused_with_both_and_the_ways_out_before_anything_is_asked(
    folder,
):
    before, judge = (folder / "preferences.parquet").read_bytes(), another_judge()
    with pytest.raises(EarlierLabelsError) as refused:
        label(PAIRS, judge, folder)
    told = str(refused.value)
    for part in (
        str(folder / "preferences.parquet"),
        "hhh 1.0.0 (sha256 cccccccccccc) then, hhh 1.0.0 (sha256 eeeeeeeeeeee) now",
        "--out",
        "--replace",
        "--update",
    ):
        assert part in told
    assert judge.asked == []
    assert (folder / "preferences.parquet").read_bytes() == before
    assert kept(folder) == []


def other_weights(judge):
    judge.model = judge.judged_by = replace(MODEL, weights_sha256="f" * 64)


def a_calibration(judge):
    judge.calibrations = (FittedCalibration(judge.sha256, "pairwise", "9" * 64),)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (other_weights, JudgeOptions(), r"judge model: scripted \(.* weights ffffffffffff, .* now"),
        (a_calibration, JudgeOptions(), "calibration: none then, 999999999999 now"),
        (None, JudgeOptions(seed=1), "seed: 0 then, 1 now"),
        (None, JudgeOptions(sample_principles=3), "sample_principles: None then, 3 now"),
        (None, JudgeOptions(orders=(Order.AB,)), r"orders: \['AB', 'BA'\] then, \['AB'\] now"),
        (None, JudgeOptions(tie_margin=0.1), "tie_margin: 0.0 then, 0.1 now"),
    ],
)
def test_another_model_calibration_or_option_is_refused_by_name(folder, change, options, told):
    judge = ScriptedJudge()
    if change:
        change(judge)
    with pytest.raises(EarlierLabelsError, match=told):
        label(PAIRS, judge, folder, options=options)


@pytest.mark.parametrize(
    "options", [JudgeOptions(), JudgeOptions(protocol="pairwise"), JudgeOptions(use_store=False)]
)
def test_the_same_judge_extends_the_labels_as_before(folder, options):
    more = [*PAIRS, comparison(8)]
    summary = label(more, ScriptedJudge(), folder, options=options)
    assert (summary.judged, summary.kept) == (7, None)
    assert label(more[:7], ScriptedJudge(), folder).judged == 7
    assert kept(folder) == []


@pytest.mark.parametrize("text", [None, "{", "[]", '{"judge": {}}'])
def test_without_a_summary_the_receipts_still_tell_the_judge(folder, text):
    summary = folder / "labels.summary.json"
    summary.unlink() if text is None else summary.write_text(text)
    for judge, options in ((another_judge(), JudgeOptions()), (ScriptedJudge(), OTHER)):
        with pytest.raises(EarlierLabelsError):
            label(PAIRS, judge, folder, options=options)
    assert label(PAIRS, ScriptedJudge(), folder).judged == 6


def test_a_summary_of_a_failed_run_does_not_speak_for_the_labels(folder):
    judge = another_judge()
    with pytest.raises(LabelingError, match="none of 1 pairs"):
        label([comparison(0, b="")], judge, folder, earlier=Earlier.KEEP)
    saved = json.loads((folder / "labels.summary.json").read_text())
    assert saved["judge"]["constitution"]["sha256"] == "e" * 64
    with pytest.raises(EarlierLabelsError):
        label(PAIRS, judge, folder)
    assert label(PAIRS, ScriptedJudge(), folder).judged == 6


def test_labels_that_cannot_be_read_are_refused_and_kept_on_demand(folder):
    file = folder / "preferences.parquet"
    file.write_bytes(broken := file.read_bytes()[:100])
    with pytest.raises(EarlierLabelsError, match=r"cannot find out how .*not a Parquet file"):
        label(PAIRS, ScriptedJudge(), folder)
    assert file.read_bytes() == broken
    summary = label(PAIRS, ScriptedJudge(), folder, earlier=Earlier.KEEP)
    assert summary.kept.startswith("preferences.unreadable.")
    assert (folder / summary.kept).read_bytes() == broken
    assert len(read_preferences(file)) == 6


def test_labels_without_receipts_count_as_unknown(folder):
    file = folder / "preferences.parquet"
    write_preferences(file, [p.model_copy(update={"receipt": ""}) for p in read_preferences(file)])
    with pytest.raises(EarlierLabelsError, match="no receipt"):
        label(PAIRS, ScriptedJudge(), folder)


# ── kept ─────────────────────────────────────────────────────────────────────────────────────


def test_replacing_keeps_each_old_file_once(folder):
    first = (folder / "preferences.parquet").read_bytes()
    summary = label(PAIRS, another_judge(), folder, earlier=Earlier.KEEP)
    assert summary.kept.startswith("preferences.hhh-1.0.0.")
    assert (folder / summary.kept).read_bytes() == first
    assert by(folder / "preferences.parquet") == "e" * 64
    assert label(PAIRS, another_judge(), folder, earlier=Earlier.KEEP).kept is None, "the same"
    back = label(PAIRS, ScriptedJudge(), folder, earlier=Earlier.KEEP)
    assert back.asked == 0
    assert len(kept(folder)) == 2
    label(PAIRS, another_judge(), folder, earlier=Earlier.KEEP)
    assert len(kept(folder)) == 2, "equal content has one name"


def test_a_replacement_that_stops_leaves_the_old_labels_in_place(folder):
    judge = another_judge()
    judge.stop_after, judge.stop_with = 2, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        label(PAIRS, judge, folder, earlier=Earlier.KEEP)
    assert by(folder / "preferences.parquet") == "c" * 64
    assert kept(folder) == []
    judge.stop_after = None
    assert label(PAIRS, judge, folder, earlier=Earlier.KEEP).asked == 4


# ── the command ──────────────────────────────────────────────────────────────────────────────


def test_the_command_refuses_then_replaces_and_says_where_the_old_labels_are(tmp_path, monkeypatch):
    prompts = [Prompt(id=f"p{n}", messages=({"role": "user", "content": f"{n}?"},)) for n in (0, 1)]
    answers = [
        Sample(prompt=p, index=i, response="x" * (i + 1), tokens=1, complete=True, seed=0)
        for p in prompts
        for i in (0, 1)
    ]
    write_jsonl(tmp_path / "samples.jsonl", answers)
    judge = ScriptedJudge()

    @contextmanager
    def judge_client(*_, **__):
        yield judge

    monkeypatch.setattr("rlaif.feedback.client.judge_client", judge_client)
    command = ["label", str(tmp_path / "samples.jsonl"), "--out", str(tmp_path / "labels")]
    assert CliRunner().invoke(app, command).exit_code == 0
    judge.sha256 = "e" * 64
    assert isinstance(CliRunner().invoke(app, command).exception, EarlierLabelsError)
    assert "exclude each other" in str(
        CliRunner().invoke(app, [*command, "--replace", "--update"]).exception
    )
    found = CliRunner().invoke(app, [*command, "--replace"])
    assert found.exit_code == 0, found.output
    (old,) = kept(tmp_path / "labels")
    assert old.name in found.output.replace("\n", "")
    assert by(old) == "c" * 64
    judge.sha256 = "d" * 64
    assert CliRunner().invoke(app, [*command, "--update"]).exit_code == 0
    assert by(tmp_path / "labels" / "preferences.parquet") == "d" * 64, "updating is on purpose"
